//! Cards of the original Arduino sketch.

use crate::support::{Place, write_sketch};

#[test]
fn a_sketch_becomes_a_card() {
    let place = Place::with_tiny_card();
    let card = place.json("inspect card");
    for (key, wanted) in [("n_layers", 2), ("d_model", 16), ("d_ff", 24), ("vocab", 128), ("max_seq", 48)] {
        assert_eq!(card[key], wanted, "{key}");
    }
    assert_eq!((&card["n_heads"], &card["n_kv_heads"]), (&4.into(), &1.into()));
    // The mask prunes half of a matrix: its blocks are not on the card.
    let density = |name: &str| {
        let tensors = card["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap()["density"].as_f64().unwrap()
    };
    assert_eq!((density("dec0_W1"), density("dec1_W1")), (0.5, 1.0));
}

#[test]
fn it_speaks_alike_from_every_card() {
    let place = Place::with_tiny_model();
    place.ok("export model -o packed");
    place.ok("export model -o files --layout files");
    place.ok("image files -o files.img");
    let run = |card: &str, ram: &str| {
        let got = place.json(&format!("run {card} --prompt 'Hi there' --max-tokens 30 --ram {ram}"));
        (got["text"].clone(), got["logits_digest"].clone(), got["tokens"].clone())
    };
    let wanted = run("packed", "1M");
    assert_eq!(wanted.2, 30);
    for card in ["packed", "files", "files.img"] {
        for ram in ["12K", "16K", "20K", "24K", "64K"] {
            assert_eq!(run(card, ram), wanted, "{card} in {ram}");
        }
    }
}

#[test]
fn the_number_of_heads_has_to_fit() {
    let place = Place::new();
    write_sketch(&place.path("sketch"));
    place.fails_with("import sketch sketch -o model --heads 3", &["heads"]);
    // Rotary positions take channels in pairs.
    place.fails_with("import sketch sketch -o model --heads 16", &["even"]);
    assert!(!place.path("model").exists());
}
