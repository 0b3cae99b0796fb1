//! A real checkpoint, on its way from llama2.c to a card that speaks.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Place, data, has, numbers};

/// What an independent implementation computed, in f64.
fn golden() -> Option<Value> {
    Some(serde_json::from_str(&fs::read_to_string(data("golden_stories260K.json")?).unwrap()).unwrap())
}

/// The model's card in both layouts, each as a folder and as an image.
const CARDS: [&str; 4] = ["packed", "files", "packed.img", "files.img"];

fn write_cards(place: &Place) {
    place.ok("export model -o packed");
    place.ok("export model -o files --layout files");
    place.ok("image packed -o packed.img");
    place.ok("image files -o files.img");
}

#[test]
fn every_card_and_amount_of_ram_gives_the_same() {
    let (Some(place), Some(golden)) = (Place::with_stories(), golden()) else { return };
    write_cards(&place);
    let run = |card: &str, options: &str| {
        place.json(&format!("run {card} --prompt 'Once upon a time' --context 128 --max-tokens 60 {options}"))
    };
    let wanted = run("packed", "--ram 4M");
    assert_eq!(wanted["pages_read"], 0, "everything is resident");
    let text = format!("Once upon a time{}", wanted["text"].as_str().unwrap());
    assert!(golden["greedy_text"].as_str().unwrap().starts_with(&text), "{text}");

    for card in CARDS {
        let too_little =
            place.fails(&format!("run {card} --prompt 'Once upon a time' --context 128 --ram 30K"));
        let least = numbers(&too_little).into_iter().find(|n| *n > 30 << 10).unwrap();
        for ram in [least, 64 << 10, 96 << 10, 200_000, 512 << 10] {
            for options in ["", "--speculate off", "--batch 3 --kernel portable"] {
                // A wider batch needs more than the least.
                let ram = if options.contains("batch") { ram.max(96 << 10) } else { ram };
                let got = run(card, &format!("--ram {ram} {options}"));
                for key in ["text", "logits_digest", "prompt_tokens", "tokens", "tape_pages"] {
                    assert_eq!(got[key], wanted[key], "{key} of {card} in {ram} bytes {options}");
                }
                let number = |key: &str| got[key].as_u64().unwrap();
                assert!(number("ram_total") <= ram, "{got:#}");
                // Each pass streams what is not pinned, and a prompt takes as few passes as its batch allows, of which only the last reads the head.
                let passes_of_prompt = number("prompt_tokens").div_ceil(number("batch"));
                let streamed = number("tape_pages") - number("pinned_pages");
                let (pages, without_head) = (number("passes") * streamed, (passes_of_prompt - 1) * streamed);
                let read = number("pages_read");
                assert!((pages - without_head..=pages).contains(&read), "{got:#}");
                // A run may reach from the layers to the tape's end.
                assert_eq!(read < pages, without_head > 200, "{got:#}");
                let most = passes_of_prompt + number("tokens") - 1;
                // What is guessed saves passes.
                assert!(number("passes") <= most, "{got:#}");
                assert!(number("passes") == most || number("guessed_right") > 0, "{got:#}");
                assert!(options != "--speculate off" || number("passes") == most, "{got:#}");
            }
        }
    }
}

#[test]
fn it_runs_in_64_kb() {
    let Some(place) = Place::with_stories() else { return };
    place.ok("export model -o card");
    let got = place.json("run card --context 128 --ram 64K --max-tokens 10");
    assert!(got["ram_total"].as_u64().unwrap() <= 64 << 10);
    assert!(got["ram_bytes"]["kv_cache"].as_u64().unwrap() > 0);
}

#[test]
fn a_larger_context_goes_on_where_a_smaller_one_ends() {
    let Some(place) = Place::with_stories() else { return };
    place.ok("export model -o card");
    let short = place.json("run card --context 20 --max-tokens 500");
    let long = place.json("run card --context 512 --max-tokens 60");
    assert_eq!((&short["stop"], &long["stop"]), (&"context".into(), &"maxtokens".into()));
    assert!(long["text"].as_str().unwrap().starts_with(short["text"].as_str().unwrap()));
}

#[test]
fn sampling_depends_on_its_seed_alone() {
    let Some(place) = Place::with_stories() else { return };
    place.ok("export model -o card");
    let run = |options: &str| {
        let got = place.json(&format!("run card --max-tokens 40 --context 64 {options}"));
        got["text"].as_str().unwrap().to_string()
    };
    let one = run("--temperature 1 --seed 1 --ram 96K");
    assert_eq!(one, run("--temperature 1 --seed 1 --ram 300K --batch 1"));
    assert_ne!(one, run("--temperature 1 --seed 2 --ram 96K"));
    // Sampling from the best token alone is greedy.
    assert_eq!(run(""), run("--temperature 1 --top-k 1 --seed 3"));
    assert_eq!(run(""), run("--temperature 1 --top-p 0.000001 --seed 3"));
}

#[test]
fn int8_predicts_as_well_as_f32_and_f32_as_the_golden_numbers() {
    let (Some(place), Some(golden), Some(text)) =
        (Place::with_stories(), golden(), data("tinystories_gpt4_a.txt"))
    else {
        return;
    };
    place.ok("export model -o card");
    place.ok("export model -o half --density 0.5");
    let eval = |model: &str| {
        place.json(&format!(
            "eval {model} --text '{}' --separator '<|endoftext|>' --documents 20",
            text.display()
        ))
    };
    let (reference, int8, half) = (eval("model"), eval("card"), eval("half"));
    let (mut tokens, mut nll) = (0.0, 0.0);
    for story in golden["nll_first20_gpt4_a"].as_array().unwrap() {
        tokens += story[0].as_f64().unwrap();
        nll += story[1].as_f64().unwrap();
    }
    let per_token = |score: &Value| score["nll_per_token"].as_f64().unwrap();
    assert_eq!(reference["tokens"].as_f64(), Some(tokens));
    assert!((per_token(&reference) - nll / tokens).abs() < 1e-3, "{reference:#}");
    for key in ["tokens", "bytes", "documents"] {
        assert_eq!(int8[key], reference[key], "{key}");
    }
    assert!((per_token(&int8) - per_token(&reference)).abs() < 0.005, "{int8:#}");
    // One-shot pruning is no gift: were it free, nothing would have been pruned.
    assert!(per_token(&half) > per_token(&int8) + 0.5, "{half:#}");
    // Perplexity and bits per byte are the same number in other units.
    let (nll, bytes) = (per_token(&int8), int8["bytes"].as_f64().unwrap());
    assert!((int8["perplexity"].as_f64().unwrap() - nll.exp()).abs() < 1e-9);
    let bits = nll * tokens / std::f64::consts::LN_2 / bytes;
    assert!((int8["bits_per_byte"].as_f64().unwrap() - bits).abs() < 1e-9);
    let context =
        place.json(&format!("eval card --text '{}' --documents 1 --context 32 --ram 64K", text.display()));
    assert_eq!(context["tokens"], 31, "cut at the context, the first token given");
}

#[test]
fn pruning_halves_the_tape_and_what_is_read() {
    let Some(place) = Place::with_stories() else { return };
    place.ok("export model -o dense");
    place.ok("export model -o half --density 0.5");
    let run = |card: &str| place.json(&format!("run {card} --context 64 --ram 64K --max-tokens 20"));
    let (dense, half) = (run("dense"), run("half"));
    let share = |key: &str| half[key].as_f64().unwrap() / dense[key].as_f64().unwrap();
    assert!(share("tape_pages") <= 0.55, "{}", share("tape_pages"));
    assert!(share("pages_read") < share("tape_pages"), "what is pinned counts twice as much");
    let density = place.json("inspect half")["density"].as_f64().unwrap();
    assert!((density - 0.5).abs() < 0.01, "{density}");
}

#[test]
fn the_quantized_checkpoint_is_nearly_the_same_model() {
    let Some(place) = Place::with_stories() else { return };
    let (Some(checkpoint), Some(tokenizer)) = (data("stories260K_q80_gs4.bin"), data("tok512.bin")) else {
        return;
    };
    let (checkpoint, tokenizer) = (checkpoint.display(), tokenizer.display());
    place.ok(&format!("import llama2c '{checkpoint}' --tokenizer '{tokenizer}' -o q80"));
    place.ok("export model -o card");
    place.ok("export q80 -o card80");
    let (f32, q80) = (place.json("run card --max-tokens 20"), place.json("run card80 --max-tokens 20"));
    assert_eq!(f32["text"], q80["text"]);
    assert_ne!(f32["logits_digest"], q80["logits_digest"], "another checkpoint");
}

#[test]
fn other_programs_accept_the_images() {
    let Some(place) = Place::with_stories() else { return };
    if !has("fsck.fat") || !has("mdir") || !has("mcopy") {
        return;
    }
    write_cards(&place);
    for card in ["packed", "files"] {
        let image = fs::read(place.path(&format!("{card}.img"))).unwrap();
        assert!(image.len().is_power_of_two());
        // The only partition, as the MBR tells.
        let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize * 512;
        let partition = &image[word(446 + 8)..][..word(446 + 12)];
        fs::write(place.path("volume"), partition).unwrap();
        let run = |tool: &str, args: &[&str]| {
            let output = Command::new(tool).args(args).current_dir(place.path(".")).output().unwrap();
            assert!(output.status.success(), "{tool} {args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run("fsck.fat", &["-n", "volume"]);
        let mut listed: Vec<String> =
            run("mdir", &["-b", "-i", "volume", "::/"]).lines().map(|l| l.replace("::/", "")).collect();
        let mut files: Vec<String> = fs::read_dir(place.path(card))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        listed.sort();
        files.sort();
        assert_eq!(listed, files);
        run("mcopy", &["-n", "-i", "volume", "::/pages.crc", "copied"]);
        assert_eq!(
            fs::read(place.path("copied")).unwrap(),
            fs::read(place.path(card).join("pages.crc")).unwrap()
        );
        fs::remove_file(place.path("copied")).unwrap();
    }
}
