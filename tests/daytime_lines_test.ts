/** The lines of daytime: read, written, compared with our clock, in words. */
import { assertEquals, assertLessOrEqual } from "jsr:@std/assert@^1";
import { assertMatch } from "jsr:@std/assert@^1";
import { formatDaytime, interpret, inWords, parseDaytime } from "../daytime.ts";
import {
  address,
  bytesOf,
  LINE,
  NIST,
  OURS,
  textOf,
} from "./daytime_servers.ts";
import { test } from "./helpers.ts";

const NOTHING = { time: null, nist: null };

test("daytime reads RFC 867's own examples, though one names a wrong day", () => {
  const long = "Tuesday, February 22, 1982 17:37:43-PST";
  const short = "02 FEB 82 07:59:01 PST";
  assertEquals(parseDaytime(long).time, "1982-02-23T01:37:43.000Z");
  assertEquals(parseDaytime(short).time, "1982-02-02T15:59:01.000Z");
});

test("daytime reads the formats of RFC 867, and zones with one meaning", () => {
  const day = "Monday, November 23, 2026 13:17:05";
  const lines = {
    [OURS]: "2026-11-23T13:17:05",
    [`${day}-GMT`]: "2026-11-23T13:17:05",
    [`${day} UTC`]: "2026-11-23T13:17:05",
    [`${day.toLowerCase()}-utc\n`]: "2026-11-23T13:17:05",
    [`${day}-0800`]: "2026-11-23T21:17:05",
    [`${day}+05:30`]: "2026-11-23T07:47:05",
    "Sunday, March 1, 2026 00:59:59+0100": "2026-02-28T23:59:59",
    "Thursday, December 31, 2026 23:00:00-EST": "2027-01-01T04:00:00",
    "Tuesday, February 29, 2000 00:00:00-UTC": "2000-02-29T00:00:00",
    "23 NOV 2026 13:17:05 UTC\r\n": "2026-11-23T13:17:05", // xinetd's
    "3 Nov 2026 13:17:05 EDT": "2026-11-03T17:17:05",
    "Mon, 23 Nov 2026 13:17:05 +0000": "2026-11-23T13:17:05",
    "Mon, 23 Nov 2026 13:17:05 GMT": "2026-11-23T13:17:05",
    "01 Jan 49 00:00:00 Z": "2049-01-01T00:00:00",
    "01 Jan 50 00:00:00 UT": "1950-01-01T00:00:00",
    [`${day}-PST`]: "2026-11-23T21:17:05",
    [`${day}-PDT`]: "2026-11-23T20:17:05",
    [`${day}-MST`]: "2026-11-23T20:17:05",
    [`${day}-MDT`]: "2026-11-23T19:17:05",
    [`${day}-CST`]: "2026-11-23T19:17:05",
    [`${day}-CDT`]: "2026-11-23T18:17:05",
    [`${day}-EDT`]: "2026-11-23T17:17:05",
  };
  for (const [line, time] of Object.entries(lines)) {
    assertEquals(
      parseDaytime(line),
      { time: `${time}.000Z`, nist: null },
      line,
    );
  }
});

test("daytime does not guess what a line does not say", () => {
  const lines = [
    "",
    " \r\n",
    "Mon Nov 23 13:17:05 2026\r\n", // inetd's: no zone
    "Monday, November 23, 2026 13:17:05",
    "Monday, November 23, 2026 13:17:05-CET", // not in RFC 5322
    "Monday, November 23, 2026 13:17:05+15:00", // nowhere
    "Monday, November 23, 2026 13:17:05-IST",
    "Monday, November 23, 2026 13:17:05-A",
    "Monday, November 23, 2026 13:17:05-CONSTRUCTOR",
    "Monday, November 23, 2026 13:17-UTC",
    "Monday, November 23, 2026 1:17:05 PM-UTC",
    "Monday, November 23, 2026 01:17:05 PM",
    "Monday, November 31, 2026 13:17:05-UTC",
    "Monday, November 0, 2026 13:17:05-UTC",
    "Monday, February 29, 2026 13:17:05-UTC",
    "Monday, February 30, 2024 13:17:05-UTC",
    "Monday, February 29, 1900 13:17:05-UTC",
    "Monday, Novembre 23, 2026 13:17:05-UTC",
    "Monday, Nov, 2026 13:17:05-UTC",
    "Monday, November 23, 26 13:17:05-UTC",
    "Monday, November 23, 0026 13:17:05-UTC",
    "Monday, November 23, 12026 13:17:05-UTC",
    "Monday, November 23, 2026 24:00:00-UTC",
    "Monday, November 23, 2026 13:60:05-UTC",
    "Monday, November 23, 2026 13:17:61-UTC",
    "Saturday, December 31, 2016 23:59:60-UTC", // no clock here can say that
    "Monday, November 23, 2026 13:17:05+0060",
    "Monday, November 23, 2026 13:17:05+3000",
    "Monday, November 23, 2026 13:17:05-UTC and more",
    "now: Monday, November 23, 2026 13:17:05-UTC",
    "32 NOV 2026 13:17:05 UTC",
    "23 11 2026 13:17:05 UTC",
    "23 NOV 126 13:17:05 UTC",
    "11/23/2026 13:17:05",
    "13:17:05 23.11.2026", // Windows, in German
  ];
  for (const line of lines) assertEquals(parseDaytime(line), NOTHING, line);
});

test("daytime reads NIST's line, and what it says beside the time", () => {
  assertEquals(parseDaytime(NIST), {
    time: "2026-11-23T13:17:05.000Z",
    nist: { mjd: 61367, dst: 0, leapSecond: 0, health: 0, advanceMs: 50 },
  });
  const line = "57616 16-08-16 06:22:17 50 1 4 895.5 UTC(NIST) *";
  assertEquals(parseDaytime(line), {
    time: "2016-08-16T06:22:17.000Z",
    nist: { mjd: 57616, dst: 50, leapSecond: 1, health: 4, advanceMs: 895.5 },
  });
});

test("daytime takes the century of NIST's line from the day number", () => {
  const end = "82-02-22 17:37:43 00 0 0 50.0 UTC(NIST) *";
  const early = "1982-02-22T17:37:43.000Z";
  assertEquals(parseDaytime(`45022 ${end}`).time, early);
  assertEquals(parseDaytime(`81547 ${end}`).time, early.replace("19", "20"));
});

test("daytime takes no time from NIST's line if its dates disagree", () => {
  const days = ["61368 26-11-23", "61367 26-11-24", "00000 26-11-23"];
  for (const day of [...days, "99999 26-02-30"]) {
    const line = `${day} 13:17:05 00 0 0 50.0 UTC(NIST) *`;
    const { time, nist } = parseDaytime(line);
    assertEquals([time, nist?.advanceMs], [null, 50], line);
  }
});

test("daytime takes nothing from a line that is only nearly NIST's", () => {
  const lines = [
    "61367 26-11-23 13:17:05 00 0 0 50.0 UTC(NIST)",
    "61367 26-11-23 25:17:05 00 0 0 50.0 UTC(NIST) *",
    `61367 26-11-23 13:17:05 00 0 0 ${"9".repeat(400)} UTC(NIST) *`,
    "61367 26-11-23 13:17:05 00 0 50.0 UTC(NIST) *",
    "61367 26-11-23 13:17:05 00 0 0 -50.0 UTC(NIST) *",
    "61367 26-11-23 13:17:05 00 0 0 50.0 UTC(USNO) *",
    "x61367 26-11-23 13:17:05 00 0 0 50.0 UTC(NIST) *",
  ];
  for (const line of lines) assertEquals(parseDaytime(line), NOTHING, line);
});

/** A line with a few characters lost, added or changed; or only noise. */
function damaged(below: (n: number) => number): string {
  const mail = "Mon, 23 Nov 2026 13:17:05 +0000";
  const lines = [OURS, NIST, "02 FEB 82 07:59:01 PST", mail];
  const letters = "0123456789 :-+,*()ACDEFMNOPRSTUVacdemnopy\0\x1b\r\n\u2028";
  const noise = crypto.getRandomValues(new Uint8Array(below(80)));
  if (below(2) === 0) return textOf(noise);
  let text = lines[below(lines.length)];
  for (let times = 1 + below(3); times > 0; times--) {
    const at = below(text.length);
    const letter = letters[below(letters.length)];
    const instead = [letter, "", letter + text[at]][below(3)];
    text = text.slice(0, at) + instead + text.slice(at + 1);
  }
  return text;
}

test("daytime reads damaged lines without stumbling, and no false times", () => {
  let seed = 1982;
  const below = (n: number) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return seed % n;
  };
  for (let i = 0; i < 20_000; i++) {
    const line = damaged(below);
    const { time } = parseDaytime(line);
    if (time === null) continue;
    assertMatch(time, /^(19|20|1\d|2\d)\d\d-/, JSON.stringify(line));
    assertEquals(new Date(time).toISOString(), time, JSON.stringify(line));
  }
});

test("daytime reads back the lines of its server, which are RFC 867's", () => {
  const late = new Date(Date.UTC(2026, 10, 23, 13, 17, 5, 999));
  const first = "Thursday, February 1, 2024 00:00:00-UTC\r\n";
  assertEquals(formatDaytime(late), OURS);
  assertEquals(formatDaytime(new Date(Date.UTC(2024, 1, 1))), first);
  for (let i = 0; i < 3000; i++) {
    const clock = [i % 24, i % 60, (7 * i) % 60] as const;
    const date = new Date(Date.UTC(2020, 0, 1 + 5 * i, ...clock));
    const line = formatDaytime(date);
    assertMatch(line, LINE);
    assertEquals(parseDaytime(line).time, date.toISOString());
  }
});

/** An answer that came in at this time of our clock, after a round trip. */
function answered(line: string, ours: string, trip = 0) {
  const answered = Date.parse(ours) - performance.timeOrigin;
  const times = { asked: answered - trip, answered };
  const bytes = bytesOf(line);
  return interpret("test", { bytes, from: address(13), ...times });
}

test("daytime adds half the round trip to what the server's clock says", () => {
  const ours = "2026-11-23T13:17:05Z";
  const offset = (line: string, trip: number) =>
    answered(line, ours, trip).offsetMs;
  // NIST's line says that it was sent 50 ms before the time in it.
  assertEquals(offset(NIST, 0), -50);
  assertEquals(offset(NIST, 300), 100);
  // Another is as likely to be from the beginning of its second as from the end.
  assertEquals(offset(OURS, 0), 500);
  assertEquals(offset(OURS, 80), 540);
  assertEquals(offset(OURS.replace(":05-", ":00-"), 0), -4500);
  assertEquals(offset("noon", 80), null);
});

/** What a person reads, without the time of day, which depends on the zone. */
function words(line: string, ours = "2026-11-23T13:17:05.500Z", trip = 12.3) {
  const text = inWords(answered(line, ours, trip));
  assertLessOrEqual(text.length, 80, text);
  return text.replace(/\d\d:\d\d:\d\d/, "CLOCK");
}

test("daytime says in words how far the clocks are apart, in 80 columns", () => {
  const here = "CLOCK local time; ";
  const trip = "; round trip 12.3 ms";
  const lines = {
    [OURS]: `${here}the clocks agree${trip}`,
    [OURS.replace(":05", ":04")]: `${here}their clock is 1.0 s behind${trip}`,
    [OURS.replace("13:", "14:")]: `${here}their clock is 3600.0 s ahead${trip}`,
    [OURS.replace("23", "21")]: `${here}their clock is 2 days behind${trip}`,
    [OURS.replace("2026", "1982")]:
      `${here}their clock is 16071 days behind${trip}`,
    [NIST]: `${here}their clock is 0.544 s behind${trip}`,
    "noon": `no time to compare with our clock${trip}`,
  };
  for (const [line, text] of Object.entries(lines)) {
    assertEquals(words(line), text, line);
  }
  words("Monday, November 23, 1026 13:17:05-UTC", undefined, 12345.67);
});

test("daytime says in words what NIST says of its clock's health", () => {
  const ours = "2026-11-23T13:17:05Z";
  const ill = (digit: number) =>
    words(NIST.replace("00 0 0", `00 0 ${digit}`), ours, 100);
  const agrees = "CLOCK local time; the clocks agree; ";
  assertEquals(ill(0), `${agrees}round trip 100 ms`);
  assertEquals(ill(1), `${agrees}NIST: up to 5 s off`);
  assertEquals(ill(2), `${agrees}NIST: over 5 s off`);
  assertEquals(ill(3), `${agrees}NIST: faulty`);
  assertEquals(ill(4), `${agrees}NIST: in maintenance`);
  assertEquals(ill(7), `${agrees}NIST: not healthy`);
});
