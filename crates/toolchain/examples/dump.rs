//! scratch
use pageformer_engine::{Engine, Needs, Plan, Request, Sampler, Session, kernels};
use pageformer_sim::open;
use pageformer_vram::Arena;
use std::path::Path;
fn enc<C: pageformer_vram::Card>(s: &mut Session<'_, C>, t: &str) -> Vec<u16> {
    let mut v = vec![];
    let _ = s.encode(t, &mut |x| {
        v.push(x);
        Ok(())
    });
    v
}
fn generate<C: pageformer_vram::Card>(
    s: &mut Session<'_, C>,
    seq: &mut Vec<u16>,
    fresh: usize,
    max: usize,
    sampler: &mut Sampler,
    end: impl Fn(u16) -> bool,
) -> usize {
    let ctx = s.engine().plan().context as usize;
    let mut at = fresh;
    let mut n = 0;
    loop {
        if seq.len() > ctx {
            return n;
        }
        let l = s.engine_mut().step(&seq[at..]).unwrap();
        let tok = sampler.choose(l);
        at = seq.len();
        seq.push(tok);
        n += 1;
        if end(tok) || n >= max {
            return n;
        }
    }
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut memory = vec![0u64; 4 << 20];
    let ram = memory.len() * 8;
    let mut arena = Arena::new(&mut memory);
    let o = open(Path::new(&args[1]), &mut arena).unwrap();
    let plan = Plan::new(
        &Needs::new(&o.manifest, &o.table),
        ram,
        &Request { batch: Some(32), ..Default::default() },
    )
    .unwrap();
    let engine = Engine::start(o.card, &o.manifest, o.table, &plan, &mut arena, kernels::best()).unwrap();
    let mut s = Session::start(engine, &o.manifest, &mut arena).unwrap();
    let temp: f32 = args[3].parse().unwrap();
    let text = std::fs::read_to_string(&args[4]).unwrap();
    match args[2].as_str() {
        "chat" => {
            let nl = enc(&mut s, "\n")[0];
            for (i, line) in text.lines().enumerate() {
                let v: serde_json::Value = serde_json::from_str(line).unwrap();
                s.reset();
                let mut seq = vec![0u16];
                let mut fresh = 0;
                let mut spans = vec![];
                let mut sampler = Sampler::new(temp, 0, 1.0, i as u64);
                for m in v["messages"].as_array().unwrap() {
                    if m["role"] != "user" {
                        continue;
                    }
                    seq.extend(enc(&mut s, &format!(" {}\n", m["content"].as_str().unwrap())));
                    let start = seq.len();
                    if start > 180 {
                        break;
                    }
                    let mut at = fresh;
                    while seq.len() - at > 16 {
                        s.engine_mut().step(&seq[at..at + 16]).unwrap();
                        at += 16;
                    }
                    let n = generate(&mut s, &mut seq, at, 80, &mut sampler, |t| t == 0 || t == nl);
                    if seq.len() > 180 {
                        break;
                    }
                    spans.push((start, start + n));
                    fresh = seq.len() - 1;
                }
                println!("{}", serde_json::json!({"seq": seq, "spans": spans, "kind": v["kind"]}));
            }
        }
        "chattrain" => {
            for line in text.lines() {
                let v: serde_json::Value = serde_json::from_str(line).unwrap();
                let mut seq = vec![0u16];
                let mut spans = vec![];
                for m in v["messages"].as_array().unwrap() {
                    let c = m["content"].as_str().unwrap();
                    let a = seq.len();
                    if m["role"] == "user" {
                        seq.extend(enc(&mut s, &format!(" {c}\n")));
                    } else {
                        seq.extend(enc(&mut s, &format!("{c}\n")));
                        spans.push((a, seq.len()));
                    }
                }
                println!("{}", serde_json::json!({"seq": seq, "spans": spans}));
            }
        }
        "stories" => {
            for (i, st) in text.split("<|endoftext|>").enumerate().take(args[5].parse().unwrap()) {
                s.reset();
                let st = st.trim();
                let mut seq = vec![1u16];
                let all = enc(&mut s, st);
                seq.extend(all.iter().take(12));
                let start = seq.len();
                let mut sampler = Sampler::new(temp, 0, 1.0, i as u64);
                let n = generate(&mut s, &mut seq, 0, 200, &mut sampler, |t| t == 1 || t == 2);
                println!("{}", serde_json::json!({"seq": seq, "spans": [(start, start+n)]}));
            }
        }
        _ => {
            for st in text.split("<|endoftext|>") {
                let mut seq = vec![1u16];
                seq.extend(enc(&mut s, st.trim()));
                println!("{}", serde_json::json!({"seq": seq, "spans": [(1, seq.len())]}));
            }
        }
    }
}
