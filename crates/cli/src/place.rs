//! A board and how it is used: what `plan` and `chat` share.

use anyhow::{Context, Result, bail};
use clap::Args;
use pageformer_card::PAGE_BYTES;
use pageformer_sim::Setup;
use pageformer_sim::boards::{BOARDS, board, bus};

use crate::ui::{bytes, parse_bytes};

/// Bytes of a piece of a file: a page at least.
fn parse_piece(text: &str) -> Result<usize, String> {
    match parse_bytes(text)? {
        0..PAGE_BYTES => Err(format!(
            "a piece has {PAGE_BYTES} bytes or more: give the card's clusters, such as 32K; without --fragments each file is in one piece"
        )),
        bytes => Ok(bytes),
    }
}

/// Checks that a board has so much RAM.
pub fn within_board(ram: usize, setup: &Setup<'_>) -> Result<()> {
    let board = setup.board;
    if ram > board.ram {
        bail!(
            "{} of RAM are more than {} has for a model, {}; give --ram {}K or less, or another board (`plan --board list`)",
            bytes(ram as u64),
            board.name,
            bytes(board.ram as u64),
            board.ram / 1024
        );
    }
    Ok(())
}

/// A board and how it is used.
#[derive(Args, Clone)]
pub struct Place {
    /// A board whose speed is predicted; `plan --board list` shows all, with their buses and where the figures are from
    #[arg(long, value_name = "BOARD")]
    pub board: Option<String>,
    /// The bus of its card [default: the board's first]
    #[arg(long, value_name = "BUS")]
    pub sd: Option<String>,
    /// Bytes of the pieces that a fragmented card's files lie in: at worst its clusters, by Windows' defaults 4K up to 8 GB, 8K up to 16 GB, 16K up to
    /// 32 GB [default: each in one]
    #[arg(long, value_name = "BYTES", value_parser = parse_piece)]
    pub fragments: Option<usize>,
    /// The card is only read while it is waited for, also where a second core could do it
    #[arg(long)]
    pub no_read_ahead: bool,
}

impl Place {
    /// The board that is named, its bus, and the rest; nothing if none is.
    pub fn setup(&self) -> Result<Option<Setup<'static>>> {
        match &self.board {
            Some(board) => self.setup_of(board).map(Some),
            None if self.sd.is_some() || self.fragments.is_some() || self.no_read_ahead => {
                bail!("--sd, --fragments and --no-read-ahead are about a board: give --board, too")
            }
            None => Ok(None),
        }
    }

    /// The same for a board of this name.
    pub fn setup_of(&self, name: &str) -> Result<Setup<'static>> {
        let board = board(name).with_context(|| {
            let names: Vec<_> = BOARDS.iter().map(|board| board.name).collect();
            format!("no board `{name}`: there are {}; `plan --board list` says more", names.join(", "))
        })?;
        let name = self.sd.as_deref().or(board.buses.first().copied()).unwrap_or_default();
        let bus = bus(name).filter(|bus| board.buses.contains(&bus.name));
        let bus = bus
            .with_context(|| format!("{} has no `{name}`: it has {}", board.name, board.buses.join(", ")))?;
        let piece = self.fragments.map(|bytes| (bytes / PAGE_BYTES) as u32);
        Ok(Setup { board, bus, piece, read_ahead: !self.no_read_ahead })
    }
}
