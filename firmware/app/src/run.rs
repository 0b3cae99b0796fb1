//! The loop around everything.

use embedded_io::{Read, ReadReady, Write};
use pageformer_console::{Closed, Console, End, Host};

use crate::{CardSlot, Memory, boot};

/// While there is no session, the slot is looked at when the console has been idle this often: with a
/// [`Host`] that sleeps for 10 ms, about every half second.
const IDLE_PER_LOOK: u32 = 50;

/// Boots, talks, and begins again when the card is changed. Returns when the port is closed, which a board's never is.
pub fn run<'m, S, P, H>(slot: &mut S, memory: impl Into<Memory<'m>>, console: &mut Console<P, H>) -> Closed
where
    S: CardSlot,
    P: Read + ReadReady + Write,
    H: Host,
{
    let Memory { main, apart, pace } = memory.into();
    let mut asked = false;
    loop {
        let mut end = talk(slot, Memory { main: &mut *main, apart: &mut *apart, pace }, console, asked);
        // Whoever types /card wants all of it to be looked at.
        asked = end == End::Reload;
        if end == End::CardGone {
            let mut watch = Watch { present: slot.present(), idle: 0 };
            asked = true;
            end = console.wait(&mut || {
                let put_in = watch.put_in(slot);
                asked &= !put_in;
                put_in
            });
        }
        if end == End::Closed {
            return Closed;
        }
    }
}

/// Boots and talks, once.
#[inline(never)]
fn talk<S, P, H>(slot: &mut S, memory: Memory<'_>, console: &mut Console<P, H>, asked: bool) -> End
where
    S: CardSlot,
    P: Read + ReadReady + Write,
    H: Host,
{
    // Matched by reference: a session of a kilobyte and more must not be on the stack twice.
    match &mut boot(slot, memory) {
        Ok(session) => match console.verify(session, asked) {
            Ok(true) => match console.banner(session) {
                Ok(()) => console.run(session),
                Err(Closed) => End::Closed,
            },
            Ok(false) => End::CardGone,
            Err(Closed) => End::Closed,
        },
        Err(error) => match console.error(format_args!("{error}")) {
            Ok(()) => End::CardGone,
            Err(_) => End::Closed,
        },
    }
}

/// Notices that a card is put in.
struct Watch {
    present: bool,
    idle: u32,
}

impl Watch {
    fn put_in<S: CardSlot>(&mut self, slot: &mut S) -> bool {
        self.idle += 1;
        if self.idle < IDLE_PER_LOOK {
            return false;
        }
        self.idle = 0;
        let before = core::mem::replace(&mut self.present, slot.present());
        self.present && !before
    }
}
