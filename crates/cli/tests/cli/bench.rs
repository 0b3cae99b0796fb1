//! `bench`: what it measures is no test's business, but that it measures is.

use crate::support::{Place, numbers};

const QUICK: &str = "--tokens 8 --runs 2 --context 32";

#[test]
fn bench_has_its_keys() {
    let place = Place::with_tiny_card();
    for what in ["card", "--random 24,40,2,3,1,300", "--random 24,40,2,3,1,300 --density 0.5"] {
        let got = place.json(&format!("bench {what} {QUICK}"));
        for key in ["decode_tokens_per_s", "prefill_tokens_per_s"] {
            assert!(got[key].as_f64().unwrap() > 0.0, "{what}: {got:#}");
        }
        for parts in ["decode_us_per_token", "prefill_us_per_token"].map(|parts| &got[parts]) {
            let names =
                ["matrices", "attention", "norms_quantization_activation", "sampling", "paging_and_rest"];
            for part in names {
                assert!(parts[part].as_f64().unwrap() >= 0.0, "{what}: {parts:?}");
            }
        }
        let model = what.split(" --").next().unwrap().replace("--random", "random");
        assert_eq!(got["model"], model);
        assert_eq!((&got["tokens"], &got["pages_streamed_per_pass"]), (&8.into(), &0.into()));
        assert!(got["prepack_ms"].as_f64().unwrap() >= 0.0, "{got:#}");
        assert_eq!(got["not_prepacked"].is_null(), got["prepacked_bytes"].as_u64().unwrap() > 0, "{got:#}");
        assert_eq!(got["not_prepacked"].is_null(), got["matrices_add_us_per_token"].is_f64(), "{got:#}");
        // What is pruned is measured beside what is not.
        let whole = &got["whole"];
        assert_eq!(whole.is_null(), !what.contains("density"), "{what}: {got:#}");
        if !whole.is_null() {
            for parts in ["decode_us_per_token", "prefill_us_per_token"] {
                assert!(whole[parts]["matrices"].as_f64().unwrap() >= 0.0, "{got:#}");
            }
            let add = "matrices_add_us_per_token";
            assert_eq!(whole[add].is_f64(), got[add].is_f64(), "{got:#}");
        }
    }
}

#[test]
fn why_nothing_was_packed_is_said() {
    let place = Place::with_tiny_card();
    for (options, why) in
        [("--no-prepack", "--no-prepack"), ("--kernel portable", "kernel portable"), ("--ram 5K", "streamed")]
    {
        let got = place.json(&format!("bench card {QUICK} {options}"));
        assert_eq!(got["prepacked_bytes"], 0, "{got:#}");
        assert!(got["matrices_add_us_per_token"].is_null(), "{got:#}");
        let said = got["not_prepacked"].as_str().unwrap();
        assert!(said.contains(why), "{options}: {said}");
        let table = place.ok(&format!("bench card {QUICK} {options}"));
        assert!(table.contains(&format!("  prepacked  nothing: {said}\n")), "{table}");
        if why == "streamed" {
            assert_eq!(numbers(said)[0], got["pages_streamed_per_pass"].as_u64().unwrap(), "{got:#}");
        }
    }
}

/// Parts are of runs of their own: beneath them stands what they add up to, and what a token takes.
#[test]
fn the_table_of_parts_tells_its_sum_from_a_token() {
    let place = Place::with_tiny_card();
    let text = place.ok(&format!("bench card {QUICK}"));
    // Of decode and its share, of prefill and its share.
    let numbers =
        |line: &str| -> Vec<f64> { line.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
    let number = |line: &str| numbers(line)[0];
    let line =
        |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{text}"));
    let parts = ["matrices", "attention", "norms quantization", "sampling", "paging and rest"];
    for column in [0, 2] {
        let sum: f64 = parts.iter().map(|part| numbers(line(part))[column]).sum();
        assert!((numbers(line("all "))[column] - sum).abs() < 0.05, "{text}");
    }
    let token = number(line("without the stop-watch"));
    assert!((token * number(line("  decode")) / 1e6 - 1.0).abs() < 0.01, "{text}");
    line("matrices add ");
    assert!(!text.contains("whole matrices"), "{text}");
}

#[test]
fn what_is_pruned_is_compared_with_the_whole() {
    let place = Place::with_tiny_card();
    for (options, packed) in [("", true), ("--no-prepack", false), ("--ram 96K", true)] {
        let text = place.ok(&format!("bench --random 24,40,2,3,1,300 --density 0.5 {QUICK} {options}"));
        let line = text.lines().find(|line| line.starts_with("whole matrices, ")).expect(&text);
        assert!(line.contains(" times as long by the stop-watch; in prompts "), "{line}");
        let packed = packed && !text.contains("prepacked  nothing");
        assert_eq!(text.lines().any(|line| line.starts_with("they add ")), packed, "{text}");
    }
}

#[test]
fn more_tokens_than_positions_are_refused() {
    let place = Place::with_tiny_card();
    let error = place.fails_with("bench card --tokens 49", &["--tokens 49", "48 positions", "--tokens 48"]);
    // The model has no more.
    assert!(!error.contains("--context"), "{error}");
    place
        .fails_with("bench card --tokens 33 --context 32", &["--tokens 32 or less", "--context, 48 at most"]);
    assert_eq!(place.json("bench card --runs 1 --context 32")["tokens"], 32);
}

/// Whoever has too little memory for a model learns that before anything is done.
#[test]
#[cfg(target_os = "linux")]
fn a_model_that_no_memory_holds_is_refused() {
    let place = Place::new();
    // 43 TB.
    let run = "bench --random 65536,65536,256,64,64,65536";
    for density in ["", " --density 0.5"] {
        place.fails_with(
            &format!("{run}{density}"),
            &["65536,65536", "GB of memory are needed", "available", "give"],
        );
    }
}

#[cfg(unix)]
#[test]
fn what_takes_long_shows_that_it_goes_on() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pageformer"));
    let mut person = crate::pty::Person::sits_down(command.args([
        "bench",
        "--random",
        "288,768,6,6,6,40000",
        "--runs",
        "100000",
        "--tokens",
        "4",
    ]));
    person.running.until("making 17 million random weights");
    person.running.until("measuring [");
}

#[test]
fn curves_say_where_they_are() {
    let place = Place::new();
    let text = place.ok("bench --curves drawn/here --runs 1");
    let drawn = text.lines().find_map(|line| line.strip_prefix("drawn: ")).unwrap();
    for file in ["depth.svg", "width.svg", "context.svg", "ram.svg", "density.svg"] {
        let path = std::path::Path::new("drawn/here").join(file);
        assert!(drawn.contains(&path.display().to_string()), "{drawn}");
        assert!(std::fs::read_to_string(place.path("").join(path)).unwrap().starts_with("<svg"));
    }
}

/// A model that is large enough for threads: they are compared with one, and say the same.
#[test]
fn threads_are_compared_with_one() {
    let place = Place::with_tiny_card();
    let got = place.json(&format!("bench --random 256,1024,1,4,4,300 {QUICK} --threads 2"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(got["threads"], cores.min(2));
    assert!(got["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    if cores > 1 {
        for key in ["decode_tokens_per_s", "prefill_tokens_per_s"] {
            assert!(got["one_thread"][key].as_f64().unwrap() > 0.0, "{got:#}");
        }
    }
    let digest = |threads| {
        place.json(&format!("run card --prompt ab --ram 1M --threads {threads}"))["logits_digest"].clone()
    };
    assert_eq!(digest(1), digest(2));
    let more = place.run("run card --prompt ab --ram 1M --threads 999 --json");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&more.out).unwrap()["logits_digest"], digest(1));
    assert!(
        more.err.contains("--threads 999") && more.err.contains(&format!("{cores} are used")),
        "{more:#?}"
    );
}

#[test]
fn impossible_wishes_are_named() {
    let place = Place::new();
    assert!(place.fails("bench --kernel mmx").contains("portable"));
    assert!(place.fails("bench --random 24,40,2,3,1,300 --density 0").contains("density of 0"));
    assert!(place.usage("bench --runs 0").contains("give 1 or more"));
    assert!(place.usage("bench --tokens few").contains("`few` is not a number"));
    assert!(place.usage("bench --threads 0").contains("give 1 or more"));
    for (numbers, key) in [
        ("1,2,3", "six numbers"),
        ("24,40,2,5,1,300", "5 heads"),
        ("24,40,2,3,1,255", "vocabulary of 255"),
        ("0,40,2,1,1,300", "d_model"),
        ("24,0,2,3,1,300", "d_ff"),
        ("24,40,0,3,1,300", "n_layers"),
        ("24,40,2,3,0,300", "n_kv_heads"),
        ("24,40,2,3,2,300", "n_kv_heads"),
        ("24,40,2,3,1,70000", "vocab"),
    ] {
        let error = place.usage(&format!("bench --random {numbers}"));
        assert!(error.contains(key) && error.contains("such as 288,768,6,6,6,32000"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_yardstick_runs_in_turn() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let program = |name: &str, script: &str| {
        let path = place.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    // A millisecond for each of the tokens, which are its last argument.
    let good =
        program("good", "[ \"$1 $2 $3 $4 $5 $6\" = '24 40 2 3 1 300' ] || exit 1\nyes 1000000 | head -n $7");
    let run = |program: &std::path::Path| {
        format!("bench --random 24,40,2,3,1,300 {QUICK} --yardstick {}", program.display())
    };
    assert_eq!(place.json(&run(&good))["yardstick_tokens_per_s"].as_f64(), Some(1000.0));
    let short = program("short", "echo 5");
    place.fails_with(
        &run(&short),
        &["1 line, the first `5`, instead of the nanoseconds of 8 steps", "forward.c"],
    );
    let silent = program("silent", "true");
    place.fails_with(&run(&silent), &["printed nothing instead of the nanoseconds of 8 steps", "forward.c"]);
    let broken = program("broken", "echo no memory >&2; exit 1");
    assert!(place.fails(&run(&broken)).contains("no memory"));
    let mute = program("mute", "exit 3");
    place.fails_with(&run(&mute), &["exit status: 3", "does not say why", "forward.c"]);
    assert!(place.fails(&run(&place.path("missing"))).contains("cannot be run"));
}
