//! `plan`: what is predicted agrees with what a run does, and moves the way it must.

use std::fs;

use serde_json::Value;

use crate::support::Place;

/// A prediction for the default model.
fn plan(place: &Place, options: &str) -> Value {
    place.json(&format!("plan {options}"))
}

/// Tokens a second of replies, as the board makes them.
fn decode(place: &Place, options: &str) -> f64 {
    let got = plan(place, options);
    let guessed = &got["decode_with_guesses"]["tokens_per_s"];
    guessed.as_f64().unwrap_or_else(|| got["decode"]["tokens_per_s"].as_f64().unwrap())
}

/// Tokens of a pass are counted in real replies, to the prompts that are named, and make the prediction.
#[test]
fn guesses_are_counted_in_real_replies() {
    let place = Place::new();
    let got = plan(&place, "--sd spi-20");
    let (plain, guessed) = (&got["decode"], &got["decode_with_guesses"]);
    let number = |phase: &Value, key: &str| phase[key].as_f64().unwrap();
    assert_eq!((number(plain, "tokens_per_pass"), &plain["tokens"]), (1.0, &guessed["tokens"]), "{got:#}");
    let per_pass = number(guessed, "tokens_per_pass");
    assert!(per_pass > 1.8, "{got:#}");
    let ratio = number(guessed, "tokens_per_s") / number(plain, "tokens_per_s");
    assert!(ratio > 0.85 * per_pass && ratio < 1.05 * per_pass, "{ratio} of {per_pass}: {got:#}");
    let text = place.ok("plan --sd spi-20");
    assert!(
        text.contains(&format!("by {per_pass:.2} tokens a pass")) && text.contains("usual prompts"),
        "{text}"
    );

    fs::write(place.path("chats.txt"), "hello\nHi.\n\nwhat does a cow say\nMoo.\n\ntell me a joke\nNo.\n")
        .unwrap();
    let named = plan(&place, "--text chats.txt");
    assert_eq!(named["replies_to"], "3 prompts of chats.txt");
    let fewer = plan(&place, "--text chats.txt --documents 1");
    assert!(fewer["decode"]["tokens"].as_u64() < named["decode"]["tokens"].as_u64(), "{fewer:#}");

    let off = plan(&place, "--speculate off");
    assert!(off["decode_with_guesses"].is_null());
    // The firmware of this one does not guess.
    assert!(plan(&place, "--board lm3s6965")["decode_with_guesses"].is_null());
    assert!(place.ok("plan --board lm3s6965").contains("nothing is guessed ahead"));
    place.fails_with("plan --text nowhere.txt", &["nowhere.txt"]);
    place.usage("plan --speculate many");
}

/// The pages are those of a run with the same memory.
#[test]
fn pages_are_those_of_a_run() {
    let place = Place::new();
    for ram in ["60K", "200K", "400K"] {
        let options = format!("--ram {ram} --context 128 --batch 4 --speculate off");
        // `run` knows no bus, and takes a command for two pages, as they are here.
        let board = "--board esp32s3-psram --sd flash --no-read-ahead";
        let planned = plan(&place, &format!("{board} {options}"));
        let ran = place.json(&format!("run --prompt Hi --max-tokens 6 {options}"));
        for key in ["tape_pages", "pinned_pages"] {
            assert_eq!(planned[key], ran[key], "{ram}");
        }
        let parts = planned["ram_bytes"].as_object().unwrap();
        let sum: u64 = parts.values().map(|bytes| bytes.as_u64().unwrap()).sum();
        assert!(sum <= planned["ram"].as_u64().unwrap() && parts == ran["ram_bytes"].as_object().unwrap());
        // Each token takes what is not pinned, and some pages that are looked up.
        let streamed = planned["tape_pages"].as_u64().unwrap() - planned["pinned_pages"].as_u64().unwrap();
        let pages = planned["decode"]["bytes_per_token"].as_f64().unwrap() / 512.0;
        assert!((streamed as f64..streamed as f64 + 12.0).contains(&pages), "{planned:#}");
    }
}

#[test]
fn more_of_anything_is_not_slower() {
    let place = Place::new();
    let speeds = ["64K", "128K", "256K", "400K"]
        .map(|ram| decode(&place, &format!("--board esp32s3-psram --ram {ram}")));
    assert!(speeds.is_sorted() && speeds[3] > 1.5 * speeds[0], "{speeds:?}");
    let speeds = ["spi-20", "spi-40", "sdmmc-1", "sdmmc-4"].map(|bus| decode(&place, &format!("--sd {bus}")));
    assert!(speeds.is_sorted() && speeds[3] > speeds[0], "{speeds:?}");
    assert!(decode(&place, "--sd sdmmc-4") > decode(&place, "--sd sdmmc-4 --no-read-ahead"));
    assert!(decode(&place, "") > decode(&place, "--fragments 4K"));
    // A whole prompt at once is faster than token by token.
    let got = plan(&place, "");
    assert!(
        got["prefill"]["tokens_per_s"].as_f64() > got["decode_with_guesses"]["tokens_per_s"].as_f64(),
        "{got:#}"
    );
    assert!(got["batch"].as_u64() > Some(1));
}

#[test]
fn what_limits_is_what_takes_longer() {
    let place = Place::new();
    for (options, limit) in [("--sd spi-20", "card"), ("--board esp32s3-psram", "processor")] {
        let got = &plan(&place, options)["decode"];
        let (reading, computing) = (&got["reading_ms_per_token"], &got["computing_ms_per_token"]);
        assert_eq!(got["limited_by"], limit, "{got:#}");
        assert_eq!(reading.as_f64() > computing.as_f64(), limit == "card", "{got:#}");
    }
}

/// The RAM that would reach a target does, and hardly less does not.
#[test]
fn a_target_is_answered() {
    let place = Place::new();
    let text = place.ok("plan --target 16");
    assert!(text.contains("16 tokens/s: not reached") && text.contains("more than this board has"), "{text}");
    let text = place.ok("plan --ram 100K --target 10");
    let (_, answers) = text.split_once("not reached").unwrap();
    let line = answers.lines().find(|line| line.trim().starts_with("RAM      ")).unwrap();
    let kilobytes: u32 =
        line.split_whitespace().nth(1).unwrap().trim_end_matches([',', 'K']).parse().unwrap();
    let context = plan(&place, "")["context"].clone();
    let speed = |kilobytes| decode(&place, &format!("--ram {kilobytes}K --context {context}"));
    assert!(speed(kilobytes) >= 10.0 && speed(kilobytes - 8) < 10.0, "{line}");
    assert!(text.contains("sdmmc-4 (") && text.contains("density"), "{text}");
    assert!(place.ok("plan --target 1").contains("1 tokens/s: reached"));
    for target in ["0", "-3", "NaN", "fast"] {
        let error = place.usage(&format!("plan --target {target}"));
        assert!(error.contains("give tokens a second, such as 10"), "{error}");
    }
}

/// The columns of the time table add up, and the chart shows what the table says.
#[test]
fn what_is_said_twice_is_the_same() {
    let place = Place::new();
    for options in ["", "--sd sdmmc-4", "--board esp32c3", "--board esp32s3-psram"] {
        let text = place.ok(&format!("plan {options}"));
        let row = |name: &str| -> Vec<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let numbers = line.unwrap_or_default().split_whitespace();
            numbers.map(|number| number.parse().unwrap()).collect()
        };
        let all = row("= ms per token in all");
        let (reading, computing, both) =
            (row("ms per token reading"), row("+ computing"), row("- both at once"));
        assert!(all.len() >= 2, "{text}");
        for (at, all) in all.iter().enumerate() {
            let both = both.get(at).unwrap_or(&0.0);
            assert!((reading[at] + computing[at] - both - all).abs() < 0.025, "{options}: {text}");
            assert!(reading[at] <= all + 0.01 && computing[at] <= all + 0.01, "{options}: {text}");
        }
        let got = plan(&place, options);
        let here = got["decode_tokens_per_s_over_ram"].as_array().unwrap();
        let here = here.iter().find(|point| point[0] == got["ram"]).unwrap();
        assert_eq!(here[1].as_f64().unwrap(), decode(&place, options), "{got:#}");
    }
}

#[test]
fn where_all_pages_are_pinned_nothing_is_read() {
    let place = Place::new();
    let text = place.ok("plan --board esp32s3-psram");
    assert!(text.contains("all 914 tape pages pinned, so that no pass reads any"), "{text}");
    assert!(!text.contains("runs of 0") && !text.contains("reads ahead:"), "{text}");
    assert!(place.ok("plan --sd spi-20").contains("reads ahead:"));
}

#[test]
fn a_board_has_the_ram_that_it_has() {
    let place = Place::new();
    for command in ["plan --board rp2040", "chat --board rp2040 --no-pace"] {
        place.fails_with(&format!("{command} --ram 209K"), &["208.0 KB", "--ram 208K", "--board list"]);
        place.ok(&format!("{command} --ram 208K"));
        for piece in ["0", "511"] {
            let error = place.usage(&format!("{command} --fragments {piece}"));
            assert!(error.contains("512 bytes or more") && error.contains("32K"), "{error}");
        }
    }
    let chat = place.run_with("chat --board rp2040 --no-pace", "/ram 209K\n/memory\n");
    assert!(chat.out.contains("--ram 208K"), "{chat:#?}");
}

#[test]
fn the_curve_is_drawn() {
    let place = Place::with_tiny_card();
    let text = place.ok("plan card --board rp2040 --svg curve.svg");
    assert!(text.contains("predicted, not measured") && text.contains("█"), "{text}");
    let svg = fs::read_to_string(place.path("curve.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("polyline"),
        "{svg}"
    );
    place.fails_with("plan card --svg nowhere/curve.svg", &["nowhere/curve.svg"]);
}

#[test]
fn boards_are_listed_with_their_sources() {
    let place = Place::new();
    let list = place.ok("plan --board list");
    let all = plan(&place, "--board list");
    for kind in ["boards", "buses"] {
        for entry in all[kind].as_array().unwrap() {
            let source = entry["source"].as_str().unwrap();
            assert!(source.len() > 20 && list.contains(source), "{entry:#}");
            assert!(list.contains(entry["name"].as_str().unwrap()));
        }
    }
    // Each of them predicts something, with each of its buses.
    for board in all["boards"].as_array().unwrap() {
        for bus in board["buses"].as_array().unwrap() {
            let options = format!("--board {} --sd {}", board["name"], bus).replace('"', "");
            assert!(decode(&place, &options) > 0.1, "{options}");
        }
    }
    place.fails_with("plan --board arduino", &["no board `arduino`", "esp32s3", "--board list"]);
    place.fails_with("plan --board rp2040 --sd sdmmc-4", &["rp2040", "no `sdmmc-4`", "spi-20"]);
    place.fails_with("plan --ram 4K", &["too few"]);
    place.fails_with("plan nowhere", &["nowhere"]);
}

/// A chat at a board's speed says the same as one at this PC's.
#[test]
fn a_chat_on_a_board_says_the_same() {
    let place = Place::with_tiny_card();
    let here = place.run_with("chat card --ram 32K --max-tokens 8", "Hi\n").out;
    let there = "chat card --board esp32s3 --sd spi-40 --ram 32K --max-tokens 8";
    assert_eq!(place.run_with(there, "Hi\n").out, here);
    assert_eq!(place.run_with(&format!("{there} --no-pace"), "Hi\n").out, here);
    place.fails_with("chat card --sd spi-20", &["--board"]);
    place.fails_with("chat card --board esp32s4", &["no board `esp32s4`"]);
    place.usage("chat card --no-pace");
}

/// Where most of the RAM is keys and values, `plan` says what fewer positions would bring; and where the board's RAM ends.
#[test]
fn a_shorter_context_is_proposed_where_it_helps() {
    let Some(place) = Place::with_stories() else { return };
    place.ok("export model -o card");
    let text = place.ok("plan card --board esp32s3 --sd spi-20");
    let tip = text.lines().find(|line| line.starts_with("tip: the KV cache of 512 positions")).unwrap();
    let said = |speed: f64| format!("{speed:.2} tokens/s");
    let shorter = decode(&place, "card --board esp32s3 --sd spi-20 --context 128");
    assert!(tip.contains("--context 128,") && tip.contains(&said(shorter)), "{tip}: {shorter}");
    // Where keys and values leave room enough, nothing is proposed.
    assert!(!place.ok("plan card --board esp32s3-psram").contains("KV cache of"));
    assert!(text.contains("with more RAM than this board has:"), "{text}");
    let json = plan(&place, "card --board esp32s3 --sd spi-20 --context 128");
    assert!(json["tips"].as_array().unwrap().iter().all(|tip| !tip.as_str().unwrap().contains("KV cache")));
}
