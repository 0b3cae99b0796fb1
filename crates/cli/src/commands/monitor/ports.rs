//! Which serial ports there are, what is behind them, and which one is meant.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serial2::SerialPort;

use crate::ui::Table;

/// Where Linux says what its terminals are.
const SYSFS: &str = "/sys/class/tty";

/// A serial port of this PC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// What it is opened by.
    pub port: String,
    /// Whether it is on USB, where that can be told.
    pub usb: Option<bool>,
    /// What the USB device calls itself, if it does.
    pub product: Option<String>,
    /// The USB device's vendor and product numbers, such as `303a:1001`.
    pub id: Option<String>,
}

/// All ports of this PC.
pub fn list() -> Result<Vec<Port>> {
    let paths = match SerialPort::available_ports() {
        Ok(paths) => paths,
        // There is no such folder where there is no such device.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(error).context("the serial ports of this PC cannot be listed; name one with --port");
        }
    };
    let mut ports: Vec<Port> = paths
        .iter()
        .map(|path| path.display().to_string())
        // On macOS each port is there twice; opening this one would wait for a carrier that no board gives.
        .filter(|path| !(cfg!(target_os = "macos") && path.starts_with("/dev/tty.")))
        .map(|path| describe(&path, Path::new(SYSFS)))
        .collect();
    ports.sort_by(|a, b| (a.usb != Some(true), &a.port).cmp(&(b.usb != Some(true), &b.port)));
    Ok(ports)
}

/// What is known of a port.
fn describe(path: &str, sysfs: &Path) -> Port {
    let name = path.rsplit('/').next().unwrap_or(path);
    let by_name = || match name {
        _ if cfg!(windows) => None,
        _ => Some(["ttyUSB", "ttyACM", "cu.usb"].iter().any(|start| name.starts_with(start))),
    };
    // The terminal's device is within that of a USB interface, which is within that of the USB device.
    let device = fs::canonicalize(sysfs.join(name).join("device")).ok();
    let usb = device
        .as_deref()
        .and_then(|device| device.ancestors().take(5).find(|d| d.join("idVendor").is_file()));
    let read = |file: &str| {
        let text = fs::read_to_string(usb?.join(file)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let id = read("idVendor").zip(read("idProduct")).map(|(vendor, product)| format!("{vendor}:{product}"));
    Port {
        port: path.to_owned(),
        usb: if usb.is_some() { Some(true) } else { by_name() },
        product: read("product"),
        id,
    }
}

/// Prints them.
pub fn print(ports: &[Port], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(ports)?);
    } else if ports.is_empty() {
        println!("There is no serial port on this PC. {NONE}");
    } else {
        let mut table = Table::new(["port", "USB", "device"]);
        for port in ports {
            let usb = port.id.as_deref().unwrap_or(match port.usb {
                Some(true) => "yes",
                Some(false) => "no",
                None => "?",
            });
            table.row([&port.port, usb, port.product.as_deref().unwrap_or("")]);
        }
        print!("{table}");
    }
    Ok(())
}

/// What to do when there is none.
const NONE: &str = "Is the board plugged in, with a cable that carries data?";

/// The port that is meant where none is named: the only one on USB.
pub fn choose(ports: &[Port]) -> Result<String> {
    let candidates: Vec<&Port> = ports.iter().filter(|port| port.usb != Some(false)).collect();
    match candidates[..] {
        [port] => Ok(port.port.clone()),
        [] => bail!("there is no USB serial port. {NONE} --list shows all ports, --port names one"),
        _ => {
            let names: Vec<&str> = candidates.iter().map(|port| port.port.as_str()).collect();
            bail!("which port? --port {}; --list says more about them", names.join(", or --port "))
        }
    }
}

/// Why a port cannot be opened, and what to do.
pub fn explain(port: &str, error: &io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such port; `pageformer monitor --list` shows those that there are".into()
        }
        io::ErrorKind::PermissionDenied if cfg!(windows) => "another program has it open".into(),
        io::ErrorKind::PermissionDenied => {
            format!(
                "you may not use it; join its group (`ls -l {port}` shows it; sudo usermod -aG dialout $USER on Debian) and log in again"
            )
        }
        io::ErrorKind::ResourceBusy => "another program has it open".into(),
        _ if Path::new(port).is_file() || Path::new(port).is_dir() => "it is not a serial port".into(),
        _ => error.to_string(),
    };
    anyhow!("{port}: {advice}")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn port(name: &str, usb: Option<bool>) -> Port {
        Port { port: name.into(), usb, product: None, id: None }
    }

    #[test]
    fn the_only_usb_port_is_meant() {
        let (a, b) = (port("/dev/ttyUSB0", Some(true)), port("/dev/ttyACM0", Some(true)));
        let plain = port("/dev/ttyS0", Some(false));
        assert_eq!(choose(&[plain.clone(), a.clone()]).unwrap(), "/dev/ttyUSB0");
        // Where it cannot be told, the only one is.
        assert_eq!(choose(&[port("COM3", None)]).unwrap(), "COM3");
        let error = choose(&[a, plain.clone(), b]).unwrap_err().to_string();
        assert!(error.contains("--port /dev/ttyUSB0") && error.contains("--port /dev/ttyACM0"), "{error}");
        assert!(!error.contains("ttyS0"), "{error}");
        let error = choose(&[plain]).unwrap_err().to_string();
        assert!(error.contains("plugged in") && error.contains("--list"), "{error}");
    }

    /// The folders as Linux makes them: a bridge's terminal has a folder of its own within the USB interface, an ACM
    /// device's has not.
    #[test]
    fn what_is_behind_a_port() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("devices/usb1/1-2");
        let (bridge, acm) = (device.join("1-2:1.0/ttyUSB0"), device.join("1-2:1.1"));
        for folder in [&bridge, &acm] {
            fs::create_dir_all(folder).unwrap();
        }
        for (file, text) in
            [("idVendor", "303a\n"), ("idProduct", "1001\n"), ("product", "USB JTAG/serial\n")]
        {
            fs::write(device.join(file), text).unwrap();
        }
        let sysfs = dir.path().join("class");
        for (name, device) in [("ttyUSB0", &bridge), ("ttyACM0", &acm)] {
            fs::create_dir_all(sysfs.join(name)).unwrap();
            symlink(device, sysfs.join(name).join("device")).unwrap();
            let port = describe(&format!("/dev/{name}"), &sysfs);
            assert_eq!((port.usb, port.id.as_deref()), (Some(true), Some("303a:1001")));
            assert_eq!(port.product.as_deref(), Some("USB JTAG/serial"));
        }
        // A port on the board itself, and one that is not known there.
        fs::create_dir_all(sysfs.join("ttyS0/device")).unwrap();
        assert_eq!(describe("/dev/ttyS0", &sysfs), port("/dev/ttyS0", Some(false)));
        assert_eq!(describe("/dev/ttyUSB9", &sysfs), port("/dev/ttyUSB9", Some(true)));
    }
}
