//! What would reach a speed: less of the model, more RAM, or another bus.

use anyhow::Result;
use pageformer_sim::boards::bus;
use pageformer_sim::{Prediction, Setup};
use pageformer_vram::Arena;

use super::Asked;
use crate::session::buffer;
use crate::ui::bytes;

/// The least density that is worth asking about.
const LEAST_DENSITY: f64 = 0.1;

/// One sentence for each way.
pub fn answers(
    asked: &Asked<'_>,
    prediction: &Prediction,
    ram: usize,
    setup: &Setup<'_>,
    curve: &[(usize, f64)],
    target: f64,
) -> Result<Vec<String>> {
    let now = prediction.reply().tokens_per_s();
    let mut answers = vec![match now >= target {
        true => format!("{target} tokens/s: reached with {now:.2}, predicted."),
        false => format!(
            "{target} tokens/s: not reached, {now:.2} are predicted. What would reach it, one at a time:"
        ),
    }];
    if now >= target {
        return Ok(answers);
    }
    answers.push(format!("  RAM      {}", by_ram(asked, setup, curve, ram, target)));
    answers.push(format!("  bus      {}", by_bus(asked, setup, ram, target)));
    answers.push(format!("  density  {}", by_density(asked, prediction, ram, setup, target)?));
    Ok(answers)
}

fn by_ram(asked: &Asked<'_>, setup: &Setup<'_>, curve: &[(usize, f64)], ram: usize, target: f64) -> String {
    let reached = |ram: usize| asked.speed(ram, setup).is_some_and(|speed| speed >= target);
    let Some((enough, _)) = curve.iter().find(|(at, speed)| *at > ram && *speed >= target) else {
        return "none: with everything in RAM, computing takes too long".into();
    };
    let (mut little, mut enough) = (ram / 1024, enough.div_ceil(1024));
    while enough - little > 1 {
        let middle = little + (enough - little) / 2;
        *(if reached(middle * 1024) { &mut enough } else { &mut little }) = middle;
    }
    let more = if enough * 1024 > setup.board.ram { ", more than this board has" } else { "" };
    format!("{enough}K{more}")
}

fn by_bus(asked: &Asked<'_>, setup: &Setup<'_>, ram: usize, target: f64) -> String {
    let others =
        setup.board.buses.iter().filter_map(|name| bus(name)).filter(|bus| bus.name != setup.bus.name);
    let speeds: Vec<(&str, f64)> =
        others.filter_map(|bus| Some((bus.name, asked.speed(ram, &Setup { bus, ..*setup })?))).collect();
    let said = |speeds: &mut dyn Iterator<Item = &(&str, f64)>| {
        speeds.map(|(name, speed)| format!("{name} ({speed:.2})")).collect::<Vec<_>>().join(", ")
    };
    if speeds.is_empty() {
        return "this board has no other".into();
    }
    match said(&mut speeds.iter().filter(|(_, speed)| *speed >= target)) {
        none if none.is_empty() => format!("none reaches it: {}", said(&mut speeds.iter())),
        enough => enough,
    }
}

/// By the model of costs: cells that are pruned are neither read nor computed with; everything else stays.
fn by_density(
    asked: &Asked<'_>,
    prediction: &Prediction,
    ram: usize,
    setup: &Setup<'_>,
    target: f64,
) -> Result<String> {
    let mut memory = buffer(ram);
    let manifest = asked.card.open(&mut Arena::new(&mut memory))?.manifest;
    let (reply, pinning) = (prediction.reply(), &prediction.plan.pinning);
    let passes = reply.passes as f64;
    // Positions of a pass, and tokens that come of them.
    let (positions, tokens) = (1.0 + reply.drafted as f64 / passes, reply.tokens_per_pass());
    let density = f64::from(manifest.density);
    let weights = manifest.shape.parameters() as f64;
    let (page_s, command_s) = (setup.bus.page_us * 1e-6, setup.bus.command_us * 1e-6);
    let processor = setup.board.processor();
    let speed = |d: f64| {
        let fewer_pages = weights * (density - d) / 512.0;
        let streamed = f64::from(pinning.streamed());
        let saved = fewer_pages.min(streamed);
        let runs = saved / f64::from(pinning.ring.max(1));
        let reading = reply.reading.as_secs_f64() / passes - saved * page_s - runs * command_s;
        let cells = weights * (density - d);
        let computing = reply.computing.as_secs_f64() / passes
            - (cells * (processor.mac * positions + processor.byte) + saved * processor.page) / processor.hz;
        let time = if setup.pages_ahead() > 0 { reading.max(computing) } else { reading + computing };
        tokens / time.max(1e-9)
    };
    let (mut enough, mut little) = (LEAST_DENSITY, density);
    if speed(enough) < target {
        return Ok(format!("none down to {LEAST_DENSITY} ({:.2} there)", speed(enough)));
    }
    while little - enough > 0.005 {
        let middle = (enough + little) / 2.0;
        *(if speed(middle) >= target { &mut enough } else { &mut little }) = middle;
    }
    let pages = (weights * (density - enough) / 512.0) as u64;
    let as_now = if tokens > 1.0 { format!(" at {tokens:.2} tokens a pass, as now") } else { String::new() };
    Ok(format!(
        "about {enough:.2} instead of {density:.2}{as_now}, {} less; what that costs in quality, docs/compression.md says",
        bytes(pages * 512)
    ))
}
