//! What a line that begins with `/` asks for.

use pageformer_card::decimal::parse_f32;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Command<'a> {
    Help,
    Stats,
    Model,
    Memory,
    Temperature(f32),
    Seed(u64),
    Max(u32),
    Reset,
    Bench,
    Card,
    Pages,
    /// The host's, if it has one of this name; with its argument.
    Other(&'a str, &'a str),
    /// The argument cannot be; what it should be.
    Argument(&'a str, &'static str),
}

/// What `/help` prints.
pub(crate) const HELP: &str = "\
/stats          what the last answer took
/model          the model on the card
/memory         where the RAM goes
/temperature T  0 takes the most likely token, 1 samples as the model predicts
/seed N         of the random numbers: the same seed gives the same text
/max N          tokens of an answer at most
/reset          forget the conversation
/bench          time 16 tokens (forgets the conversation)
/card           read the card again, or another one
/pages          look at single pages
Ctrl-C stops an answer, Ctrl-U forgets a line.
";

impl<'a> Command<'a> {
    /// Parses what is behind the `/`.
    pub fn parse(line: &'a str) -> Self {
        let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
        let argument = argument.trim_ascii();
        match name {
            "help" | "?" => Self::Help,
            "stats" => Self::Stats,
            "model" => Self::Model,
            "memory" => Self::Memory,
            "temperature" => match parse_f32(argument) {
                Some(t) if (0.0..=100.0).contains(&t) => Self::Temperature(t),
                _ => Self::Argument(argument, "a temperature: 0 to 100, such as 0.8"),
            },
            "seed" => match argument.parse() {
                Ok(seed) => Self::Seed(seed),
                Err(_) => Self::Argument(argument, "a seed: a whole number, such as 7"),
            },
            "max" => match argument.parse() {
                Ok(max) if max > 0 => Self::Max(max),
                _ => Self::Argument(argument, "a number of tokens: 1 or more"),
            },
            "reset" => Self::Reset,
            "bench" => Self::Bench,
            "card" => Self::Card,
            "pages" => Self::Pages,
            _ => Self::Other(name, argument),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        assert_eq!(Command::parse("temperature  0.5"), Command::Temperature(0.5));
        assert_eq!(Command::parse("max 12"), Command::Max(12));
        for line in ["temperature", "temperature -1", "temperature nan", "seed x", "max 0", "max -3"] {
            assert!(matches!(Command::parse(line), Command::Argument(..)), "{line}");
        }
        assert_eq!(Command::parse("nothing such"), Command::Other("nothing", "such"));
    }
}
