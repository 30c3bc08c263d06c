import { describe, it } from "node:test";
import { writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { labObstacle } from "../../src/lab/lab.js";
import { Scene } from "../support/history/scene.js";
import { Truth } from "../support/history/truth.js";

describe("history", { skip: labObstacle() ?? false, timeout: 170_000 }, () => {
  it("agrees with the ends", async () => {
    const log = (text: string) => console.log(((performance.now() - t) / 1000).toFixed(1), text);
    const t = performance.now();
    await using scene = await Scene.start();
    log("started");
    const t0 = Date.now();
    await scene.traffic({ type: "open", tcp: 24, udp: 8 });
    await scene.traffic({ type: "begin" });
    await delay(5000);
    log(JSON.stringify(await scene.failOver("handOver")));
    await delay(5000);
    log(JSON.stringify(await scene.failOver("cut")));
    await delay(2000);
    const boot = Date.now();
    await scene.boot(scene.firewall("fw2"));
    log("boot");
    await delay(1000);
    await scene.traffic({ type: "pause" });
    await scene.traffic({ type: "close", keep: 6 });
    log("closed");
    await delay(5000);
    const flows = await scene.traffic({ type: "report" });
    const t1 = Date.now();
    const query = { sinceMs: t0, untilMs: t1, filter: {}, nodes: null, limit: null };
    const answers: Record<string, unknown> = {};
    const fw1 = scene.place(scene.firewall("fw1"));
    const main = await fw1.ask("history", query);
    answers.fw1 = main;
    answers.observer = await scene.observer.ask("history", query);
    log("asked");
    writeFileSync("/tmp/x4truth.json", JSON.stringify({ t0, t1, boot, failovers: scene.failovers, flows, answers }));
    const truth = new Truth(flows, scene.failovers);
    let matched = new Map();
    try {
      matched = truth.match(main);
    } catch (error) { console.log(String((error as any).actual.map((t: string) => t.slice(0,700)).join("\n"))); matched = truth.last; }
    const seconds: number[] = [];
    for (let s = Math.ceil(t0 / 1000) * 1000; s < t1; s += 1000) seconds.push(s);
    const tables = await fw1.ask("at", seconds);
    log(`at: ${seconds.length}`);
    tables.forEach((table, i) => {
      try { const r = truth.checkAt(seconds[i]!, table, matched); console.log(i, JSON.stringify(r), table.gaps.length); } catch (error) { console.log(String((error as any).actual?.slice(0,2).map((t: string) => t.slice(0,700)).join("\n") ?? error)); }
    });
    const questions = truth.questions(seconds[0]!, t1);
    const replies = await fw1.ask("whoCached", questions);
    log(`who ${questions.length}`);
    const count: Record<string, number> = {};
    questions.forEach((question, i) => {
      let r: string;
      try { r = truth.checkWho(question, replies[i]!); } catch (error) { r = "error"; console.log(String(error).slice(0, 900)); }
      count[r] = (count[r] ?? 0) + 1;
    });
    log(JSON.stringify(count));
  });
});
