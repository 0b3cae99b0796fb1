//! `--help` and the README, whose examples have to be right.

use std::fs;

use crate::support::Place;

/// Names of the subcommands that the help of `command` lists.
fn subcommands(place: &Place, command: &str) -> Vec<String> {
    let help = place.ok(&format!("{command} --help"));
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let entries = list.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names = entries.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(|name| format!("{command} {name}").trim().to_string()).collect()
}

/// Every command that does something.
fn commands(place: &Place) -> Vec<String> {
    let mut all = Vec::new();
    for command in subcommands(place, "") {
        match subcommands(place, &command) {
            own if own.is_empty() => all.push(command),
            own => all.extend(own),
        }
    }
    all
}

#[test]
fn every_command_is_there() {
    let place = Place::new();
    let all = commands(&place);
    for wanted in [
        "import llama2c",
        "import sketch",
        "export",
        "drafts",
        "image",
        "inspect",
        "verify",
        "run",
        "chat",
        "eval",
        "flash",
        "monitor",
    ] {
        assert!(all.iter().any(|command| command == wanted), "{wanted} is not among {all:?}");
    }
}

#[test]
fn every_command_has_examples_that_parse() {
    let place = Place::new();
    for command in commands(&place) {
        let help = place.ok(&format!("{command} --help"));
        let (_, examples) =
            help.split_once("\nExample").unwrap_or_else(|| panic!("{command} has no example"));
        // Nothing breaks a line but a backslash, so that examples can be copied.
        let whole: Vec<&str> = examples.lines().skip(1).take_while(|line| !line.is_empty()).collect();
        for pair in whole.windows(2) {
            let [before, line] = [pair[0], pair[1]];
            let broken =
                line.trim_start().starts_with("--") || !line.contains(' ') || !line.starts_with("  ");
            assert!(!broken || before.ends_with('\\'), "{command}: {before}\n{line}");
        }
        let lines: Vec<&str> = examples
            .lines()
            .filter_map(|line| line.split_once("pageformer ").map(|(_, rest)| rest))
            .collect();
        let own = lines.iter().filter(|line| line.starts_with(&command)).count();
        assert!(own > 0, "{command}: {examples}");
        for line in lines.iter().filter(|line| line.starts_with(&command)) {
            // Without what is the shell's.
            let line = line.split(" #").next().unwrap().split(" < ").next().unwrap();
            // The files are not here, and without a card there is nothing to read; what matters is that the command line is
            // one: 2 would say that it is not.
            // A board that happens to be connected is left alone.
            let line = match command.as_str() {
                "flash" => format!("{line} --dry-run"),
                "monitor" => format!("{line} --help"),
                _ => line.to_string(),
            };
            let code = place.run(&line).code;
            assert!(matches!(code, Some(0 | 1)), "{line} exits with {code:?}");
        }
    }
}

#[test]
fn every_option_says_what_it_does() {
    let place = Place::new();
    for command in commands(&place) {
        let help = place.ok(&format!("{command} -h"));
        let (_, options) = help.split_once("\nOptions:\n").unwrap();
        // What an option does stands behind it, or, where one is too long for that, in the next lines.
        let lines: Vec<&str> = options.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        for option in lines.chunk_by(|_, next| !next.starts_with('-')).map(|lines| lines.join(" ")) {
            let says = option.split_whitespace().find(|word| !word.starts_with(['-', '<']));
            assert!(says.is_some(), "{command}: {option}");
        }
    }
}

#[test]
fn no_command_shows_the_way() {
    let place = Place::new();
    let version = place.ok("--version");
    assert!(version.starts_with("pageformer "), "{version}");
    assert!(place.usage("fly").contains("fly"));
}

#[test]
fn the_readmes_commands_parse() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let commands: Vec<&str> = readme
        .lines()
        .filter_map(|line| {
            line.strip_prefix("$ pageformer ").or(line.strip_prefix("cargo run --release -- "))
        })
        .collect();
    assert!(commands.len() > 5, "{commands:?}");
    let place = Place::new();
    for command in commands {
        // The files are not here, but for the default model; what matters is that the command line is one.
        let code = place.run(command).code;
        assert!(matches!(code, Some(0 | 1)), "{command}: {code:?}");
    }
}
