//! The port: opened, read by a thread of its own, and opened again whenever it has gone.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use serial2::SerialPort;

use super::Event;

/// How often a port that has gone is looked for.
const RETRY: Duration = Duration::from_millis(200);
/// Bytes that are typed at once. A UART of a microcontroller has room for 16 while it prints the echo.
const PIECE: usize = 8;

/// Opens a port with 8 data bits, no parity and one stop bit.
pub fn open(name: &str, baud: u32) -> io::Result<SerialPort> {
    let mut port = SerialPort::open(name, baud)?;
    port.set_read_timeout(Duration::from_secs(1))?;
    // A board with USB of its own prints only when somebody is there, which it takes from DTR. In this order: RTS without
    // DTR resets an ESP32. A port without these lines is one all the same.
    let _ = port.set_dtr(true).and_then(|()| port.set_rts(true));
    Ok(port)
}

/// Sends what the port prints, when it goes and when it is back, until nobody listens.
pub fn watch(name: String, baud: u32, port: SerialPort, events: Sender<Event>) {
    thread::spawn(move || {
        let mut port = Arc::new(port);
        loop {
            if events.send(Event::Opened(port.clone())).is_err() {
                return;
            }
            let Some(why) = read(&port, &events) else { return };
            drop(port);
            if events.send(Event::Gone(why)).is_err() {
                return;
            }
            port = loop {
                thread::sleep(RETRY);
                // Whatever the matter is: a port that appears belongs to root for a moment, for example.
                if let Ok(port) = open(&name, baud) {
                    break Arc::new(port);
                }
            };
        }
    });
}

/// Reads until the port goes; says why. `None` if nobody listens any more.
fn read(port: &SerialPort, events: &Sender<Event>) -> Option<String> {
    let mut buffer = [0; 4096];
    loop {
        match port.read(&mut buffer) {
            Ok(0) => return Some("hung up".into()),
            Ok(n) => events.send(Event::Printed(buffer[..n].to_vec())).ok()?,
            Err(error) => match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => return Some(error.to_string()),
            },
        }
    }
}

/// Types keys no faster than a person's fastest paste that a board with a small FIFO can take.
pub fn type_in(port: &SerialPort, keys: &[u8]) -> io::Result<()> {
    for (number, piece) in keys.chunks(PIECE).enumerate() {
        if number > 0 {
            // At 115200 baud a piece takes 0.7 ms on the line, and its echo as long.
            thread::sleep(Duration::from_millis(2));
        }
        port.write_all(piece)?;
    }
    Ok(())
}
