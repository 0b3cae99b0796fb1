//! What users get wrong: the message says what, where, and what to do.

use std::fs;
use std::process::Command;

use crate::support::{Place, numbers};

#[test]
fn a_wrong_path_is_named() {
    let place = Place::with_tiny_model();
    for command in ["run", "chat", "inspect", "verify", "eval --text model/config.json"] {
        place.fails_with(&format!("{command} nowhere"), &["nowhere", "no such file"]);
    }
    place.fails_with("export nowhere -o card", &["nowhere", "config.json"]);
    place.fails_with("image nowhere -o card.img", &["nowhere", "pageformer export"]);
    fs::write(place.path("there"), "dear").unwrap();
    for (command, parts) in [
        ("import sketch nowhere -o m", ["nowhere/index.json: no such file", "original sketch"]),
        ("import llama2c nowhere --tokenizer there -o m", ["nowhere: no such file", "stories260K.bin"]),
        ("import llama2c there --tokenizer nowhere -o m", ["nowhere: no such file", "tok512.bin"]),
        ("import llama2c model --tokenizer there -o m", ["model is a folder", "stories260K.bin"]),
    ] {
        let error = place.fails_with(command, &parts);
        assert!(!error.contains("os error"), "{error}");
    }
    for command in
        ["eval model --text nowhere", "train --data nowhere -o m", "export model -o card --drafts nowhere"]
    {
        place.fails_with(command, &["nowhere: ", "; check the path"]);
    }
    assert!(!place.path("card").exists() && !place.path("card.img").exists() && !place.path("m").exists());
}

#[test]
fn causes_are_not_repeated() {
    let place = Place::with_tiny_model();
    fs::write(place.path("letter"), "dear").unwrap();
    let error = place
        .fails_with("export model -o letter/card", &["letter/card: cannot be written", "; give another"]);
    assert_eq!(error.matches("Not a directory").count(), 1, "{error}");
    place.fails_with(
        "import sketch sketch -o letter/model",
        &["letter/model: ", "a part of the path is a file"],
    );
}

#[test]
fn a_model_folder_is_not_a_card() {
    let place = Place::with_tiny_card();
    for command in ["run", "chat", "inspect", "verify", "image -o card.img"] {
        place.fails_with(&format!("{command} model"), &["model", "not a card", "pageformer export"]);
    }
    place.fails_with("export card -o other", &["card", "no config.json"]);
    fs::write(place.path("text"), "Not a card. ".repeat(1000)).unwrap();
    place.fails_with("run text", &["text: "]);
}

#[test]
fn too_little_ram_says_how_much_and_the_largest_context() {
    let place = Place::with_tiny_card();
    let run = |options: &str| format!("run card --prompt Hi --max-tokens 2 {options}");
    let error = place
        .fails_with(&run("--ram 4K"), &["bytes of RAM", "needed", "largest context", "--context", "--ram"]);
    let found = numbers(&error);
    let needed = *found.iter().find(|n| **n > 4 << 10).unwrap();
    // Exactly so much is enough, and 8 bytes less are not.
    place.ok(&run(&format!("--ram {needed}")));
    place.fails(&run(&format!("--ram {}", needed - 8)));
    // The advised context fits, and one more does not.
    let context = error.split("--context ").nth(1).map(|rest| numbers(rest)[0]).unwrap();
    assert!((1..48).contains(&context), "{error}");
    place.ok(&run(&format!("--ram 4K --context {context}")));
    place.fails(&run(&format!("--ram 4K --context {}", context + 1)));
    // Where nothing fits, that is said.
    place.fails_with(&run("--ram 2K"), &["not even a context of 1", "--ram"]);
    place.fails_with(&run("--ram 10"), &["RAM", "--ram"]);
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let place = Place::with_tiny_card();
    for (options, parts) in [
        ("--context 49", ["49", "1 to 48"]),
        ("--context 0", ["0", "1 to 48"]),
        ("--batch 0", ["0", "1 to 32"]),
        ("--batch 33", ["33", "1 to 32; change --batch"]),
        ("--temperature -1", ["-1", "0 or more"]),
        ("--temperature NaN", ["NaN", "0 or more"]),
        ("--top-p 0", ["0", "at most 1"]),
        ("--top-p 1.5", ["1.5", "at most 1"]),
        ("--max-tokens 0", ["0", "1 or more"]),
        ("--kernel quick", ["quick", "portable"]),
    ] {
        let option = options.replacen(' ', "=", 1);
        place.fails_with(&format!("run card --prompt Hi {option}"), &parts);
    }
    for ram in ["lots", "-5", "12X", "1e40"] {
        let error = place.usage(&format!("run card --ram={ram}"));
        assert!(error.contains(ram), "{error}");
    }
    for (command, part) in [
        ("export model -o x --density 0", "density of 0"),
        ("export model -o x --density 1.5", "density of 1.5"),
        ("export model -o x --density NaN", "density of NaN"),
        ("export model -o x --density 0.001", "embedding"),
        ("import sketch model -o x --heads 0", "--heads 0"),
        ("eval card --text model/config.json --context 49", "49"),
        ("eval model --text model/config.json --context 49", "49"),
    ] {
        place.fails_with(command, &[part]);
    }
    for command in [
        "eval card --text model/config.json --documents 0",
        "drafts card --measure model/config.json --documents 0",
        "plan card --text model/config.json --documents 0",
    ] {
        let error = place.usage(command);
        assert!(error.contains("1 or more"), "{error}");
    }
    // What can be given instead is said.
    for (command, part) in
        [("eval card", "<--text <FILE>|--chat <FOLDER>>"), ("compress model -o x", "--sweep")]
    {
        let error = place.usage(command);
        assert!(error.contains(part), "{error}");
    }
    for command in
        ["export model -o x --block 3x4", "export model -o x --block 4", "export model -o x --layout zip"]
    {
        place.usage(command);
    }
    assert!(!place.path("x").exists());
}

/// More than a program gets here; elsewhere that may be had.
#[test]
#[cfg(target_os = "linux")]
fn memory_that_is_not_to_be_had_is_refused() {
    let place = Place::with_tiny_card();
    let run = |command: &str| {
        let limited = format!("ulimit -v 4000000; exec \"$0\" {command}");
        let output = Command::new("sh")
            .args(["-c", &limited, env!("CARGO_BIN_EXE_pageformer")])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for command in ["run card --prompt Hi", "bench card", "eval card --text model/config.json"] {
        let (code, error) = run(&format!("{command} --ram 59G"));
        assert!(code == Some(2) && error.contains("`59G` is more memory than this PC gives"), "{error}");
    }
    assert_eq!(run("run card --prompt Hi --ram 1G").0, Some(0));
}

#[test]
fn a_prompt_that_does_not_fit_says_so() {
    let place = Place::with_tiny_card();
    let prompt = "word ".repeat(20);
    place.fails_with(&format!("run card --prompt '{prompt}'"), &["context of 48", "shorten"]);
    // The tiny model has no token to begin with.
    place.fails_with("run card", &["prompt"]);
}

#[test]
fn a_folder_that_is_no_card_is_left_alone() {
    let place = Place::with_tiny_model();
    fs::create_dir(place.path("photos")).unwrap();
    fs::write(place.path("photos/one.jpg"), "picture").unwrap();
    fs::write(place.path("letter"), "dear").unwrap();
    for output in ["photos", "photos/", "letter", "sketch", "model"] {
        place.fails_with(&format!("export model -o {output}"), &["not a card"]);
    }
    assert_eq!(fs::read_dir(place.path("photos")).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(place.path("photos/one.jpg")).unwrap(), "picture");
    assert_eq!(fs::read_to_string(place.path("letter")).unwrap(), "dear");
    place.ok("export model -o card");
}

#[test]
fn a_card_is_replaced_by_a_newer_one() {
    let place = Place::with_tiny_model();
    // With and without a slash, new and over an old one, over an empty folder, in a folder to be made.
    fs::create_dir(place.path("empty")).unwrap();
    for output in ["card/", "card", "card/", "empty", "deep/er/card/"] {
        place.ok(&format!("export model -o {output} --layout files"));
        assert!(place.path(output).join("dec0_W1.mask").exists());
        place.ok(&format!("export model -o {output}"));
        let mut files: Vec<_> =
            fs::read_dir(place.path(output)).unwrap().map(|f| f.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["index.json", "pages.crc", "pages.meta", "tokenizer.bin", "weights.pages"]);
        place.ok(&format!("verify {output}"));
    }
    assert!(!place.path("card.partial").exists());
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let place = Place::with_tiny_card();
    place.ok("export model -o again");
    place.ok("image card -o one.img");
    place.ok("image again -o two.img");
    assert!(fs::read(place.path("one.img")).unwrap() == fs::read(place.path("two.img")).unwrap());
}

#[test]
fn a_broken_model_folder_is_named() {
    let place = Place::with_tiny_model();
    let good = fs::read(place.path("model/model.safetensors")).unwrap();
    fs::write(place.path("model/model.safetensors"), &good[..good.len() - 7]).unwrap();
    place.fails_with("export model -o card", &["model.safetensors"]);
    fs::write(place.path("model/model.safetensors"), &good).unwrap();
    fs::write(place.path("model/config.json"), "{").unwrap();
    place.fails_with("export model -o card", &["config.json"]);
    fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    place.fails("export model -o card");
    assert!(!place.path("card").exists());
}

#[test]
fn a_checkpoint_without_its_tokenizer_is_refused() {
    let place = Place::new();
    fs::write(place.path("short.bin"), [1; 20]).unwrap();
    place.fails_with("import llama2c short.bin --tokenizer short.bin -o m", &["short.bin"]);
    place.usage("import llama2c short.bin -o m");
    assert!(!place.path("m").exists());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::with_tiny_card();
    for command in ["inspect card", "verify card", "inspect card --json", "export model -o other", "--help"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_pageformer"))
            .args(command.split(' '))
            .current_dir(place.path(""))
            .stdout(writer)
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), message.as_str()), (Some(0), ""), "{command}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error_and_no_panic() {
    let place = Place::with_tiny_card();
    fs::write(place.path("lines"), "Hi\n").unwrap();
    for command in ["inspect card", "run card --prompt Hi --ram 32K", "chat card --ram 32K"] {
        let output = Command::new(env!("CARGO_BIN_EXE_pageformer"))
            .args(command.split(' '))
            .current_dir(place.path(""))
            .stdin(fs::File::open(place.path("lines")).unwrap())
            .stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {message}");
        assert!(message.contains("error: ") && message.contains("No space left"), "{command}: {message}");
        assert!(!message.contains("panicked"), "{command}: {message}");
    }
}

#[test]
fn an_answer_that_fails_at_a_pipe_is_a_failure() {
    let place = Place::with_tiny_card();
    let long = format!("Hi\n{}\nHi\n", "many words ".repeat(200));
    let ran = place.run_with("chat card --ram 32K --max-tokens 4", &long);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    // The others are answered all the same.
    assert_eq!(ran.out.lines().count(), 2, "{ran:#?}");
    assert_eq!(place.run_with("chat card --ram 32K --max-tokens 4", "Hi\n").code, Some(0));
}

#[test]
fn a_file_that_a_card_misses_is_named() {
    for file in ["tokenizer.bin", "pages.crc", "weights.pages"] {
        let place = Place::with_tiny_card();
        fs::remove_file(place.path("card").join(file)).unwrap();
        for command in ["run card --prompt Hi", "inspect card", "image card -o card.img"] {
            let error = place.fails_with(command, &[file, "export it again"]);
            assert!(!error.contains("os error"), "{error}");
        }
    }
}

#[test]
fn outputs_that_cannot_be_are_named_and_nothing_is_left() {
    let place = Place::with_tiny_card();
    let error = place.fails_with("image card -o nowhere/card.img", &["nowhere/card.img", "no folder"]);
    assert!(!error.contains(".partial"), "{error}");
    fs::write(place.path("letter"), "dear").unwrap();
    fs::write(place.path("short.bin"), [1; 20]).unwrap();
    place.fails_with("import llama2c short.bin --tokenizer short.bin -o letter", &["letter", "no folder"]);
    assert_eq!(fs::read_to_string(place.path("letter")).unwrap(), "dear");
    place.fails_with("chat card --ram 0", &["--ram 0"]);
    fs::write(place.path("empty.txt"), "").unwrap();
    place.fails_with("train --data empty.txt -o new", &["no text in empty.txt"]);
}

#[test]
fn a_model_is_not_replaced_unawares() {
    let place = Place::with_tiny_model();
    let before = fs::read(place.path("model/model.safetensors")).unwrap();
    fs::write(place.path("text.txt"), "the bird sings. the cow says moo. ".repeat(40)).unwrap();
    let train = "train --data text.txt -o model --preset sketch --layers 1 --d-model 16 --d-ff 24 --heads 2 --steps 2";
    place.fails_with(train, &["model", "--force"]);
    assert!(fs::read(place.path("model/model.safetensors")).unwrap() == before);
    place.ok(&format!("{train} --force"));
    assert!(fs::read(place.path("model/model.safetensors")).unwrap() != before);
}

/// `/card` reads the card again, and looks at every page of it.
#[test]
fn the_card_is_looked_at_when_that_is_asked_for() {
    let place = Place::with_tiny_card();
    let ran = place.run_with("chat card --ram 32K --max-tokens 4", "/card\nHi\n");
    assert!(ran.code == Some(0) && ran.out.contains("checking") && ran.out.contains("good"), "{ran:#?}");
    // A page of the weights that a pass reads last: the session would start.
    let weights = place.path("card/weights.pages");
    let at = fs::metadata(&weights).unwrap().len() as usize - 400;
    crate::support::flip(&weights, at);
    let ran = place.run_with("chat card --ram 32K --max-tokens 4", "/card\n");
    assert!(ran.code == Some(1) && ran.err.contains("checksum"), "{ran:#?}");
}
