/** What runs on GitHub, checked as far as that goes without it: read as YAML, and its commands run here. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { parse } from "jsr:@std/yaml@^1/parse";
import { SCRIPTS, TARGETS } from "../tools/compile.ts";
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
  "timeout-minutes"?: number;
  env?: Record<string, string>;
  strategy?: { matrix: Record<string, unknown> };
  steps: Step[];
}

interface Workflow {
  on: Record<string, unknown>;
  permissions?: unknown;
  jobs: Record<string, Job>;
}

const FILES = ["ci.yml", "release.yml"];
const read = (path: string) => Deno.readTextFile(new URL(path, ROOT));
const workflow = async (file: string) =>
  parse(await read(`.github/workflows/${file}`)) as Workflow;

/** A command of a workflow, by the names of its job and step. */
async function command(
  file: string,
  job: string,
  step: string,
): Promise<string> {
  const found = (await workflow(file)).jobs[job].steps.find(({ name }) =>
    name === step
  );
  assert(found?.run, `${file} has a step ${step} in its job ${job}`);
  return found.run;
}

/** Runs a command as GitHub does: in a shell that stops at the first failure. */
async function sh(
  script: string,
  cwd: string,
  env: Record<string, string> = {},
) {
  return await new Running("bash", ["-e", "-o", "pipefail", "-c", script], {
    cwd,
    env,
  }).finish(30);
}

for (const file of FILES) {
  test(`${file} takes every action at a commit, and says which version that is`, async () => {
    const uses = (await read(`.github/workflows/${file}`)).split("\n").filter((
      line,
    ) => /\buses:/.test(line));
    assert(uses.length > 0);
    for (const line of uses) {
      assertMatch(
        line,
        /^ +(- )?uses: actions\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/,
      );
    }
  });

  test(`${file} gives each job no more rights than it needs, and no time without end`, async () => {
    const { permissions, jobs } = await workflow(file);
    assertEquals(permissions, {}, "none unless a job asks for them");
    for (const [name, job] of Object.entries(jobs)) {
      const writes = {
        contents: "write",
        "id-token": "write",
        attestations: "write",
      };
      assertEquals(
        job.permissions,
        name === "publish" ? writes : { contents: "read" },
        name,
      );
      assert(job["timeout-minutes"]! <= 30, name);
      for (const step of job.steps) {
        if (step.uses?.includes("checkout")) {
          assertEquals(step.with?.["persist-credentials"], false, name);
        }
      }
    }
  });

  test(`${file} runs tasks that exist, under the version of Deno that .ci/run names`, async () => {
    const [tasks, ci, text] = await Promise.all([
      read("deno.json"),
      read(".ci/run"),
      read(`.github/workflows/${file}`),
    ]);
    const [, current] = ci.match(/^current=([\d.]+)/m)!;
    for (const [, task] of text.matchAll(/\btask ([\w-]+)/g)) {
      assert(task in JSON.parse(tasks).tasks, task);
    }
    for (const [, version] of text.matchAll(/\bdeno@([\d.]+)/g)) {
      assertEquals(version, current);
    }
    for (const [path] of text.matchAll(/\.ci\/\w+/g)) {
      await Deno.stat(new URL(path, ROOT));
    }
  });

  test(`${file} puts nothing from outside into its commands but by way of the environment`, async () => {
    for (const job of Object.values((await workflow(file)).jobs)) {
      for (const { run } of job.steps) {
        assert(!/\$\{\{(?! matrix\.)/.test(run ?? ""), run);
      }
    }
  });
}

test("ci.yml runs on every change, on Linux, macOS and Windows", async () => {
  const { on, jobs } = await workflow("ci.yml");
  assertEquals(Object.keys(on), ["push", "pull_request"]);
  assertEquals(jobs.others.strategy?.matrix.os, [
    "macos-latest",
    "windows-latest",
  ]);
  assertStringIncludes(await command("ci.yml", "linux", "test"), ".ci/run");
});

test("release.yml publishes what was tested, for all platforms, and only that", async () => {
  const { on, jobs } = await workflow("release.yml");
  assertEquals(on, { push: { tags: ["v*"] } });
  assertEquals(Object.entries(jobs).map(([name, { needs }]) => [name, needs]), [
    ["test", undefined],
    ["build", "test"],
    ["try", "build"],
    ["publish", "try"],
  ]);
  assertEquals(jobs.build.env?.TARGETS.split(" "), TARGETS);
  const tried = jobs.try.strategy?.matrix.include as { target: string }[];
  assertEquals(tried.map(({ target }) => target), TARGETS);
});

test("the version is the same in deno.json, in the scripts, and at the top of the changelog", async () => {
  assertEquals(JSON.parse(await read("deno.json")).version, VERSION);
  const [, newest] = (await read("CHANGELOG.md")).match(
    /^## \[(\d.*)\] - \d{4}-\d\d-\d\d$/m,
  )!;
  assertEquals(newest, VERSION);
});

/** A stand-in for `npx deno task compile --target TARGET`: what it makes runs the scripts as they are. */
const NPX = `#!/bin/sh
mkdir -p "bin/$6"
for name in ${Object.keys(SCRIPTS).join(" ")}; do
  printf '#!/bin/sh\nexec "%s" run -A "%s" "$@"\n' '${Deno.execPath()}' '${ROOT.pathname}'$name.ts >"bin/$6/$name"
  chmod +x "bin/$6/$name"
done
`;

test("deno doc --lint finds every exported name described", async () => {
  const files = [...Object.keys(SCRIPTS), "utils"].map((name) => `${name}.ts`);
  const { code, stderr } = await new Running(Deno.execPath(), [
    "doc",
    "--lint",
    ...files,
  ], { cwd: ROOT }).finish();
  assertEquals(code, 0, stderr);
});

test({
  name:
    "release.yml makes an archive for each platform, tries it, sums up, and publishes with the changelog's words",
  ignore: Deno.build.os !== "linux" || missing("zip"),
  fn: async () => {
    const folder = await Deno.makeTempDir({ prefix: "release" }),
      tools = `${folder}/tools`;
    const env = {
      TARGETS: TARGETS.join(" "),
      GITHUB_REF_NAME: `v${VERSION}`,
      PATH: `${tools}:${Deno.env.get("PATH")}`,
    };
    const step = async (
      job: string,
      name: string,
      cwd = folder,
      more: Record<string, string> = {},
    ) => {
      const done = await sh(await command("release.yml", job, name), cwd, {
        ...env,
        ...more,
      });
      assertEquals(done.code, 0, `${name}: ${done.stderr}`);
      return done.stdout;
    };
    try {
      await Deno.mkdir(tools);
      await Deno.writeTextFile(`${tools}/npx`, NPX, { mode: 0o755 });
      await Deno.writeTextFile(
        `${tools}/gh`,
        '#!/bin/sh\nprintf "%s\\n" "$@"\n',
        { mode: 0o755 },
      );
      for (
        const file of ["README.md", "CHANGELOG.md", "LICENSE", "deno.json"]
      ) {
        await Deno.copyFile(new URL(file, ROOT), `${folder}/${file}`);
      }
      await step("test", "the tag is the version");
      const tag = await command(
        "release.yml",
        "test",
        "the tag is the version",
      );
      assertEquals(
        (await sh(tag, folder, { ...env, GITHUB_REF_NAME: "v0.0.1" })).code,
        1,
        "another version is refused",
      );

      for (const name of ["compile", "pack", "sum"]) await step("build", name);
      const archives = TARGETS.map((t) =>
        `sockets-${VERSION}-${t}${t.includes("windows") ? ".zip" : ".tar.gz"}`
      );
      assertEquals(
        [...Deno.readDirSync(`${folder}/dist`)].map(({ name }) => name).sort(),
        [
          "SHA256SUMS",
          ...archives.sort(),
        ],
      );
      const sums = await Deno.readTextFile(`${folder}/dist/SHA256SUMS`);
      assertEquals(
        sums.trim().split("\n").map((line) => line.split("  ")[1]),
        archives,
      );
      const inside = [
        ...Object.keys(SCRIPTS),
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
      ];
      for (const archive of archives) {
        const listed = (await sh(
          archive.endsWith("zip") ? "zip -sf $ARCHIVE" : "tar tzf $ARCHIVE",
          `${folder}/dist`,
          {
            ARCHIVE: archive,
          },
        )).stdout;
        for (const file of inside) assertStringIncludes(listed, `/${file}\n`);
      }

      await step("try", "try", `${folder}/dist`, { TARGET: TARGETS[0] });
      await Deno.remove(`${folder}/dist/sockets-${VERSION}-${TARGETS[0]}`, {
        recursive: true,
      });

      const dead = `${folder}/dead`, name = `sockets-${VERSION}-${TARGETS[0]}`; // programs that end at once
      await Deno.mkdir(`${dead}/${name}`, { recursive: true });
      for (const script of Object.keys(SCRIPTS)) {
        const text =
          `#!/bin/sh\n[ "$1" = --version ] && echo ${script} ${VERSION}\n`;
        await Deno.writeTextFile(`${dead}/${name}/${script}`, text, {
          mode: 0o755,
        });
      }
      assertEquals(
        (await sh(
          `tar -czf ${name}.tar.gz ${name} && rm -r ${name}`,
          dead,
          env,
        )).code,
        0,
      );
      const trying = await sh(
        await command("release.yml", "try", "try"),
        dead,
        { ...env, TARGET: TARGETS[0] },
      );
      assertEquals(trying.code, 1, "a program that is gone is not waited for");

      for (const name of ["check", "notes"]) await step("publish", name);
      const notes = await Deno.readTextFile(`${folder}/notes.md`);
      assertMatch(notes, /^\n?\S.*\n\n### Added\n/s);
      assert(!notes.includes("## ["), "no other version's");
      const said = (await step("publish", "publish")).trim().split("\n");
      assertEquals(said.slice(0, 3), ["release", "create", `v${VERSION}`]);
      assertEquals(
        said.slice(-6),
        ["SHA256SUMS", ...archives].map((name) => `dist/${name}`),
      );
      await Deno.writeTextFile(
        `${folder}/dist/${archives[0]}`,
        "something else",
      );
      assertEquals(
        (await sh(
          await command("release.yml", "publish", "check"),
          folder,
          env,
        )).code,
        1,
      );
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
