/** The child's side of a process that is asked over its channel: questions by name, answered or refused by their id. */

/** As the parent asks. */
export interface ChildQuestion {
  readonly id: number;
  readonly question: string;
  readonly args: unknown;
}

/** As the child answers, or why it cannot. */
export interface ChildAnswer {
  readonly id: number;
  readonly answer?: unknown;
  readonly error?: string;
}

/** Answers whatever the parent asks, by the functions of `answers`, until the channel closes, which ends the process. */
export function answerQuestions(answers: object): void {
  process.on("message", (question: ChildQuestion) => {
    void answer(answers as Record<string, (args: unknown) => unknown>, question).then((response) =>
      // The parent may be gone by now.
      process.send?.(response, undefined, undefined, () => undefined),
    );
  });
  process.on("disconnect", () => process.exit(0));
}

async function answer(
  answers: Readonly<Record<string, (args: unknown) => unknown>>,
  { id, question, args }: ChildQuestion,
): Promise<ChildAnswer> {
  try {
    return { id, answer: await answers[question]!(args) };
  } catch (error) {
    return { id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}
