/**
 * What runs on GitHub, as far as that can be checked without it: the workflows
 * are read as YAML, and their commands are run here.
 */
import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { parse } from "npm:yaml@2";
import { programName, SCRIPTS, TARGETS } from "../tools/compile.ts";
import { VERSION } from "../utils.ts";
import { missing, ROOT, Running, test } from "./helpers.ts";

interface Step {
  name?: string;
  uses?: string;
  run?: string;
  with?: Record<string, unknown>;
}

interface Job {
  needs?: string;
  permissions?: Record<string, string>;
  "timeout-minutes": number;
  env?: Record<string, string>;
  strategy?: { matrix: Record<string, unknown> };
  steps: Step[];
}

interface Workflow {
  on: Record<string, unknown>;
  permissions?: unknown;
  jobs: Record<string, Job>;
}

const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));
const readWorkflow = (file: string): Workflow =>
  parse(read(`.github/workflows/${file}`));
const CI = readWorkflow("ci.yml");
const RELEASE = readWorkflow("release.yml");
const PROGRAMS = Object.keys(SCRIPTS).map(programName);

/** A command of a workflow, by the names of its job and its step. */
function command({ jobs }: Workflow, job: string, step: string): string {
  const found = jobs[job].steps.find(({ name }) => name === step);
  assert(found?.run, `there is a step ${step} in the job ${job}`);
  return found.run;
}

for (const workflow of [CI, RELEASE]) {
  const file = workflow === CI ? "ci.yml" : "release.yml";
  const jobs = Object.entries(workflow.jobs);
  const steps = jobs.flatMap(([, { steps }]) => steps);

  test(`${file} gives a job the rights that it needs, and a limit`, () => {
    assertEquals(workflow.permissions, {}, "none unless a job asks for them");
    const publishing = {
      contents: "write",
      "id-token": "write",
      attestations: "write",
    };
    for (const [name, job] of jobs) {
      const needed = name === "publish" ? publishing : { contents: "read" };
      assertEquals(job.permissions, needed, name);
      assert(job["timeout-minutes"] <= 30, name);
    }
    for (const { uses, with: options } of steps) {
      if (!uses?.includes("checkout")) continue;
      assertEquals(options?.["persist-credentials"], false);
    }
  });

  test(`${file} puts nothing from outside into its commands`, () => {
    for (const { run = "" } of steps) {
      assert(!/\$\{\{(?! matrix\.)/.test(run), run);
    }
  });

  test(`${file} runs tasks that exist, by the Deno that .ci/run names`, () => {
    const { tasks } = JSON.parse(read("deno.json"));
    const [, current] = read(".ci/run").match(/^current=([\d.]+)/m)!;
    const commands = steps.map(({ run }) => run).join("\n");
    for (const [, task] of commands.matchAll(/\btask ([\w-]+)/g)) {
      assert(task in tasks, task);
    }
    for (const [, version] of commands.matchAll(/\bdeno@([\d.]+)/g)) {
      assertEquals(version, current);
    }
  });
}

test("every action is taken at a commit, with its version beside it", () => {
  const text = read(".github/workflows/ci.yml") +
    read(".github/workflows/release.yml");
  const uses = text.split("\n").filter((line) => /\buses:/.test(line));
  assert(uses.length > 0);
  for (const line of uses) {
    assertMatch(line, /actions\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
  }
});

test("every change is tested on Linux, macOS and Windows", () => {
  assertEquals(Object.keys(CI.on), ["push", "pull_request"]);
  const systems = ["macos-latest", "windows-latest"];
  assertEquals(CI.jobs.others.strategy?.matrix.os, systems);
  assertStringIncludes(command(CI, "linux", "test"), ".ci/run");
});

const isMirrored = read("deno.json").includes('"importMap"');

test("every change is tested with the packages of JSR, too", {
  ignore: Deno.build.os !== "linux" || !isMirrored,
}, async () => {
  using rehearsal = new Rehearsal();
  const leave = command(CI, "official", "leave the mirror");
  assertEquals((await rehearsal.sh(leave)).code, 0);
  const left = Deno.readTextFileSync(`${rehearsal.folder}/deno.json`);
  const { importMap, ...rest } = JSON.parse(read("deno.json"));
  assert(importMap);
  assertEquals(JSON.parse(left), rest);
  assertMatch(command(CI, "official", "test"), / task test$/);
});

test("a release is what was tested and tried, for all platforms", () => {
  const jobs = Object.entries(RELEASE.jobs);
  assertEquals(RELEASE.on, { push: { tags: ["v*"] } });
  assertEquals(jobs.map(([name, { needs }]) => [name, needs]), [
    ["test", undefined],
    ["build", "test"],
    ["try", "build"],
    ["publish", "try"],
  ]);
  assertEquals(RELEASE.jobs.build.env?.TARGETS.split(" "), TARGETS);
  const { include } = RELEASE.jobs.try.strategy!.matrix;
  const tried = (include as { target: string }[]).map(({ target }) => target);
  assertEquals(tried, TARGETS);
});

test("deno.json, the scripts and the changelog name one version", () => {
  assertEquals(JSON.parse(read("deno.json")).version, VERSION);
  const heading = /^## \[(\d.*)\] - \d{4}-\d\d-\d\d$/m;
  assertEquals(read("CHANGELOG.md").match(heading)?.[1], VERSION);
});

/** What `deno doc --json` says of a file, as far as the test needs it. */
interface Documented {
  symbols: {
    name: string;
    declarations: { declarationKind: string; jsDoc?: { doc?: string } }[];
  }[];
}

test("every exported name is described", async () => {
  const args = ["doc", "--json", ...Object.keys(SCRIPTS), "utils.ts"];
  const running = new Running(Deno.execPath(), args, { cwd: ROOT });
  const { code, stdout, stderr } = await running.finish(30);
  assertEquals(code, 0, stderr);
  const files: Documented[] = Object.values(JSON.parse(stdout).nodes);
  const symbols = files.flatMap((file) => file.symbols);
  assert(symbols.length > 0);
  const bare = symbols.filter(({ declarations }) =>
    declarations.every(({ declarationKind, jsDoc }) =>
      declarationKind === "export" && !jsDoc?.doc
    )
  );
  assertEquals(bare.map(({ name }) => name), []);
});

/** Stands in for a compiled program. */
function program(name: string): string {
  const scripts = Object.keys(SCRIPTS);
  const script = scripts.find((script) => programName(script) === name);
  const deno = `"${Deno.execPath()}" run -A "${ROOT.pathname}${script}"`;
  return `#!/bin/sh\nexec ${deno} "$@"\n`;
}

/** Stands in for `npx deno task compile --target TARGET`. */
const NPX = '#!/bin/sh\nmkdir -p bin && cp -r programs "bin/$6"\n';
const GH = '#!/bin/sh\nprintf "%s\\n" "$@"\n';

/** A folder in which the commands of a release run; it is taken away. */
class Rehearsal implements Disposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "release" });

  constructor(text = program) {
    for (const name of PROGRAMS) this.install("programs", name, text(name));
    this.install("tools", "npx", NPX);
    this.install("tools", "gh", GH);
    const files = ["README.md", "CHANGELOG.md", "LICENSE", "deno.json"];
    for (const file of files) this.write(file, read(file));
  }

  write(name: string, text: string): void {
    Deno.writeTextFileSync(`${this.folder}/${name}`, text);
  }

  install(folder: string, name: string, text: string): void {
    const path = `${this.folder}/${folder}/${name}`;
    Deno.mkdirSync(`${this.folder}/${folder}`, { recursive: true });
    Deno.writeTextFileSync(path, text, { mode: 0o755 });
  }

  /** Runs a command as GitHub does: the first failure ends it. */
  async sh(script: string, env: Record<string, string> = {}, folder = "") {
    const args = ["-e", "-o", "pipefail", "-c", script];
    const path = `${this.folder}/tools:${Deno.env.get("PATH")}`;
    const usual = {
      TARGETS: TARGETS.join(" "),
      TARGET: TARGETS[0],
      GITHUB_REF_NAME: `v${VERSION}`,
      GITHUB_REPOSITORY: "OWNER/REPOSITORY",
      PATH: path,
    };
    const cwd = `${this.folder}/${folder}`;
    const options = { cwd, env: { ...usual, ...env } };
    return await new Running("bash", args, options).finish(30);
  }

  /** Runs a step that has to succeed. Returns what it prints. */
  async step(job: string, name: string, folder = ""): Promise<string> {
    const script = command(RELEASE, job, name);
    const { code, stdout, stderr } = await this.sh(script, {}, folder);
    assertEquals(code, 0, `${name}: ${stderr}`);
    return stdout;
  }

  async build(): Promise<void> {
    for (const step of ["compile", "pack", "sum"]) {
      await this.step("build", step);
    }
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

const ARCHIVES = TARGETS.map((target) => {
  const end = target.includes("windows") ? "zip" : "tar.xz";
  return `sockets-${VERSION}-${target}.${end}`;
}).sort();
const ignore = Deno.build.os !== "linux" || ["xz", "7z", "unzip"].some(missing);

test("a release is refused if its tag is not the version", {
  ignore,
}, async () => {
  using rehearsal = new Rehearsal();
  const script = command(RELEASE, "test", "the tag is the version");
  assertEquals((await rehearsal.sh(script)).code, 0);
  const other = { GITHUB_REF_NAME: "v0.0.1" };
  assertEquals((await rehearsal.sh(script, other)).code, 1);
});

test("a release has an archive of all programs for each platform", {
  ignore,
}, async () => {
  using rehearsal = new Rehearsal();
  await rehearsal.build();
  const sums = await rehearsal.sh("cut -d' ' -f3 dist/SHA256SUMS");
  assertEquals(sums.stdout.trim().split("\n"), ARCHIVES);
  for (const archive of ARCHIVES) {
    const list = archive.endsWith("zip") ? "unzip -Z1" : "tar tJf";
    const { stdout } = await rehearsal.sh(`${list} dist/${archive}`);
    for (const file of [...PROGRAMS, "README.md", "CHANGELOG.md", "LICENSE"]) {
      assertMatch(stdout, new RegExp(`/${file}$`, "m"), archive);
    }
  }
});

test("programs that are nearly the same make a small archive", {
  ignore,
}, async () => {
  const random = new Uint8Array(50_000).map(() => 256 * Math.random());
  const same = random.toBase64();
  using rehearsal = new Rehearsal((name) => `${name}\n${same}`);
  await rehearsal.build();
  const archive = ARCHIVES.find((name) => name.endsWith(".tar.xz"));
  const { size } = Deno.statSync(`${rehearsal.folder}/dist/${archive}`);
  assertLess(size, 2 * random.length);
});

/** Unpacks an archive of the release and runs its programs, as it is told. */
async function tryRelease(text: (name: string) => string, target: string) {
  using rehearsal = new Rehearsal(text);
  await rehearsal.build();
  const script = command(RELEASE, "try", "try");
  return await rehearsal.sh(script, { TARGET: target }, "dist");
}

for (const target of ["x86_64-unknown-linux-gnu", "x86_64-pc-windows-msvc"]) {
  test(`a release is published if its programs work: ${target}`, {
    ignore,
  }, async () => {
    for (const name of PROGRAMS) {
      assertMatch(command(RELEASE, "try", "try"), RegExp(`\\b${name}\\b`));
    }
    const done = await tryRelease(program, target);
    assertEquals(done.code, 0, done.stderr);
  });
}

test("a release is not published if a program ends at once", {
  ignore,
}, async () => {
  const ending = (name: string) =>
    `#!/bin/sh\n[ "$1" = --version ] && echo ${name} ${VERSION}\n`;
  assertEquals((await tryRelease(ending, TARGETS[0])).code, 1);
});

test("a downloaded archive is checked by the command of the reference", {
  ignore,
}, async () => {
  const [check] = read("docs/reference.md").match(/^sha256sum .*$/m)!;
  using rehearsal = new Rehearsal();
  await rehearsal.build();
  const [archive, ...others] = ARCHIVES;
  const { folder } = rehearsal;
  for (const other of others) Deno.removeSync(`${folder}/dist/${other}`);
  const { code, stdout } = await rehearsal.sh(check, {}, "dist");
  assertEquals([code, stdout], [0, `${archive}: OK\n`]);
  rehearsal.write(`dist/${archive}`, "something else");
  assertEquals((await rehearsal.sh(check, {}, "dist")).code, 1);
});

test("the reference names the archive of each platform", () => {
  const reference = read("docs/reference.md");
  assertStringIncludes(reference, `\`sockets-${VERSION}-\``);
  for (const archive of ARCHIVES) {
    const end = archive.replace(`sockets-${VERSION}-`, "");
    assertStringIncludes(reference, `\`${end}\``);
  }
});

test("a release is published with its notes, and only as it was built", {
  ignore,
}, async () => {
  using rehearsal = new Rehearsal();
  await rehearsal.build();
  for (const name of ["check", "notes"]) await rehearsal.step("publish", name);
  const notes = Deno.readTextFileSync(`${rehearsal.folder}/notes.md`);
  assertMatch(notes, /^\n?\S.*\n\n### Added\n/s);
  assert(!notes.includes("## ["), "no other version's");
  const reference = read("docs/reference.md");
  const commands = [...notes.matchAll(/^ {4}(\S.*)$/gm)];
  assertEquals(commands.length, 2);
  for (const [, command] of commands) {
    assertStringIncludes(reference, `\n${command}\n`);
  }
  const said = (await rehearsal.step("publish", "publish")).trim().split("\n");
  assertEquals(said.slice(0, 3), ["release", "create", `v${VERSION}`]);
  const files = ["SHA256SUMS", ...ARCHIVES].map((name) => `dist/${name}`);
  assertEquals(said.slice(-files.length), files);
  rehearsal.write(`dist/${ARCHIVES[0]}`, "something else");
  const check = command(RELEASE, "publish", "check");
  assertEquals((await rehearsal.sh(check)).code, 1);
});
