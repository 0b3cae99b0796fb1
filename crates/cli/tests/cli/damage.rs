//! Cards that are not as they were written: nothing is computed from them.

use std::fs;

use crate::support::{Place, flip, write_sketch};

/// Where a tensor begins in `weights.pages`, from what `inspect` says.
fn first_page(place: &Place, tensor: &str) -> u64 {
    let card = place.json("inspect card");
    let tensors = card["tensors"].as_array().unwrap();
    tensors.iter().find(|t| t["name"] == tensor).unwrap()["first_page"].as_u64().unwrap()
}

#[test]
fn a_good_card_is_good() {
    let place = Place::with_tiny_card();
    assert!(place.ok("verify card").contains("good"));
    let card = place.json("verify card");
    assert_eq!((&card["ok"], card["problems"].as_array().unwrap().len()), (&true.into(), 0));
}

#[test]
fn a_flipped_bit_is_found_and_stops_the_run() {
    let place = Place::with_tiny_card();
    place.ok("image card -o good.img");
    // In the second page of dec1_W2, after its mask page.
    let page = first_page(&place, "dec1_W2") + 1;
    flip(&place.path("card/weights.pages"), page as usize * 512 + 100);
    place.ok("image card -o bad.img");
    for card in ["card", "bad.img"] {
        let ran = place.run(&format!("verify {card}"));
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        assert!(ran.out.contains("dec1_W2, page 1 "), "{ran:#?}");
        assert!(ran.out.contains("1 problem"), "{ran:#?}");
        // Everything resident; everything streamed, in runs that begin in one tensor and end in another.
        for ram in ["256K", "5K"] {
            let ran = place.run(&format!("run {card} --prompt Hello --ram {ram} --max-tokens 5"));
            assert_eq!((ran.code, ran.out.trim()), (Some(1), ""), "{ran:#?}");
            for part in ["page 1 of dec1_W2 ", &format!("page {page} of weights"), "checksum"] {
                assert!(ran.err.contains(part), "no {part:?} in {ran:#?}");
            }
        }
    }
    assert_eq!(place.run("verify good.img").code, Some(0));
}

#[test]
fn every_bad_page_is_listed() {
    let place = Place::with_tiny_card();
    for tensor in ["dec0_Wq", "dec1_ln1", "emb_weight"] {
        flip(&place.path("card/weights.pages"), first_page(&place, tensor) as usize * 512 + 5);
    }
    flip(&place.path("card/tokenizer.bin"), 511);
    let ran = place.run("verify card --json");
    assert_eq!(ran.code, Some(1));
    let found: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found["ok"], false);
    let places: Vec<&str> =
        found["problems"].as_array().unwrap().iter().map(|p| p["place"].as_str().unwrap()).collect();
    for place in ["dec0_Wq, page 0", "dec1_ln1, page 0", "emb_weight, page 0", "tokenizer.bin, page 0"] {
        assert!(places.iter().any(|found| found.starts_with(place)), "{place} is not among {places:?}");
    }
}

#[test]
fn every_file_of_a_card_is_covered() {
    for file in ["index.json", "pages.crc", "tokenizer.bin", "weights.pages"] {
        let place = Place::with_tiny_card();
        let bytes = fs::read(place.path("card").join(file)).unwrap();
        // A digit of the name in index.json would do no harm: a checksum has to tell.
        let at = match file {
            "index.json" => bytes.windows(8).position(|text| text == b"\"source\"").unwrap() + 14,
            _ => 17,
        };
        flip(&place.path("card").join(file), at);
        for command in ["verify card", "run card --prompt Hello --max-tokens 3"] {
            let ran = place.run(command);
            assert_eq!(ran.code, Some(1), "{file}: {command}: {ran:#?}");
        }
    }
}

#[test]
fn a_page_file_is_named() {
    let place = Place::with_tiny_model();
    place.ok("export model -o card --layout files");
    flip(&place.path("card/dec0_Wo_0000.bin"), 3);
    let ran = place.run("verify card");
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("dec0_Wo, page 1 "), "{ran:#?}");

    fs::write(place.path("card/dec0_Wo_0000.bin"), [0; 100]).unwrap();
    for command in ["verify card", "run card --prompt Hello", "image card -o card.img"] {
        place.fails_with(command, &["dec0_Wo_0000.bin", "100", "512"]);
    }
    fs::remove_file(place.path("card/dec0_Wo_0000.bin")).unwrap();
    for command in ["verify card", "run card --prompt Hello", "inspect card"] {
        place.fails_with(command, &["dec0_Wo_0000.bin"]);
    }
}

#[test]
fn files_of_two_exports_do_not_mix() {
    let place = Place::with_tiny_card();
    place.ok("export model -o other --density 0.9");
    fs::copy(place.path("other/index.json"), place.path("card/index.json")).unwrap();
    let ran = place.run("verify card");
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    place.fails_with("run card --prompt Hello", &["export"]);
}

#[test]
fn a_torn_file_is_named() {
    for file in ["weights.pages", "pages.crc", "tokenizer.bin"] {
        let place = Place::with_tiny_card();
        let path = place.path("card").join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 512]).unwrap();
        let lengths = [bytes.len().to_string(), (bytes.len() - 512).to_string()];
        let name = file.strip_suffix(".pages").unwrap_or(file);
        place.fails_with("run card --prompt Hello", &[name, &lengths[0], &lengths[1]]);
        let ran = place.run("verify card");
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        // Said once, with its name, and nothing about pages that cannot be there.
        let said = format!("{file}: {} bytes where index.json asks for {}", lengths[1], lengths[0]);
        assert!(ran.out.starts_with(&said) && ran.out.contains("card: 1 problem; export"), "{ran:#?}");
        let ran = place.run("inspect card");
        assert!(ran.err.contains(&said) && ran.err.contains("`pageformer verify`"), "{ran:#?}");
        // Whose pages are whole can be looked at.
        assert_eq!(ran.code, Some(i32::from(file == "weights.pages")), "{ran:#?}");
        fs::remove_file(&path).unwrap();
        place.fails_with("run card --prompt Hello", &[file]);
        place.fails_with("verify card", &[file]);
    }
}

#[test]
fn what_is_left_of_torn_weights_is_checked() {
    let place = Place::with_tiny_card();
    let (cut, flipped) = (first_page(&place, "dec1_W2") + 1, first_page(&place, "dec0_Wo"));
    let path = place.path("card/weights.pages");
    flip(&path, flipped as usize * 512 + 3);
    let bytes = fs::read(&path).unwrap();
    // In the middle of a page, or at its beginning: that page is the first that is missing.
    for more in [0, 200] {
        fs::write(&path, &bytes[..cut as usize * 512 + more]).unwrap();
        let ran = place.run("verify card");
        let missing = format!("; missing from dec1_W2, page 1 (page {cut} of the weights) on");
        assert!(ran.out.contains(&missing) && ran.out.contains("dec0_Wo, page 0 "), "{ran:#?}");
    }
}

#[test]
fn inspect_names_the_tensor_whose_masks_are_wrong() {
    let place = Place::with_tiny_card();
    let page = first_page(&place, "dec1_W1");
    let path = place.path("card/weights.pages");
    let good = fs::read(&path).unwrap();
    // No cell, or cells beyond the width: the tiny matrix has none of a tile's later cells.
    for (fill, part) in [(0, "dec1_W1: its masks ask for fewer pages"), (255, "dec1_W1, page 0 (page")] {
        let mut bytes = good.clone();
        bytes[page as usize * 512..][..512].fill(fill);
        fs::write(&path, bytes).unwrap();
        place.fails_with("inspect card", &["card: ", part, "export the card again", "`pageformer verify`"]);
    }
}

#[test]
fn a_torn_image_is_refused() {
    let place = Place::with_tiny_card();
    place.ok("image card -o card.img");
    let image = fs::read(place.path("card.img")).unwrap();
    for length in [0, 100, 512, 1 << 20, (1 << 20) + 512, 1_100_000] {
        fs::write(place.path("torn.img"), &image[..length]).unwrap();
        let advice = if length < 512 { "; give the folder or the image" } else { "write the image again" };
        place.fails_with("run torn.img --prompt Hello", &["torn.img: ", advice]);
    }
}

#[test]
fn an_index_that_promises_the_world_is_refused() {
    let place = Place::with_tiny_card();
    let index = fs::read_to_string(place.path("card/index.json")).unwrap();
    for (from, to, part) in [
        ("\"version\": 1", "\"version\": 2", "version"),
        ("\"page_size\": 512", "\"page_size\": 4096", "page_size"),
        ("\"n_layers\": 2", "\"n_layers\": 4000000000", "n_layers"),
        ("\"d_model\": 16", "\"d_model\": 65536", "tensors"),
        ("\"n_kv_heads\": 1", "\"n_kv_heads\": 3", "n_kv_heads"),
        ("\"tape_pages\": ", "\"tape_pages\": 9", "tape_pages"),
        ("\"position\"", "\"Position\"", "position"),
        ("\"format\": \"pageformer\"", "\"format\": \"other\"", "format"),
        ("{\n  \"format\"", "[\n  \"format\"", "JSON"),
    ] {
        let changed = index.replacen(from, to, 1);
        assert_ne!(changed, index, "{from}");
        fs::write(place.path("card/index.json"), changed).unwrap();
        for command in ["run card --prompt Hello", "verify card", "inspect card"] {
            place.fails_with(command, &["index.json", part]);
        }
    }
}

#[test]
fn a_card_of_the_sketch_is_not_a_card_of_ours() {
    let place = Place::new();
    write_sketch(&place.path("sketch"));
    place.fails_with("run sketch --prompt Hello", &["sketch", "pages.crc"]);
}

#[test]
fn metadata_is_checked_and_a_card_does_without() {
    let place = Place::with_tiny_card();
    let path = place.path("card/pages.meta");
    let good = fs::read(&path).unwrap();
    let ran = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        place.ok("run card --prompt Hello --max-tokens 3");
        place.run("verify card")
    };
    assert_eq!(ran(&good).code, Some(0));
    // One slot is enough: that is what two are for.
    let torn = [&good[..good.len() / 2], &vec![0x5A; good.len() / 2]].concat();
    assert_eq!(ran(&torn).code, Some(0));
    let short = ran(&good[512..]);
    assert_eq!(short.code, Some(1));
    assert!(short.out.contains("pages.meta: ") && short.out.contains(&good.len().to_string()), "{short:#?}");
    let mut flipped = good.clone();
    flipped[512 + 3] ^= 1;
    let flipped = ran(&flipped);
    assert_eq!(flipped.code, Some(1));
    assert!(flipped.out.contains("pages.meta: neither of its two slots is whole"), "{flipped:#?}");
    // Cards of before there was one have none.
    fs::remove_file(&path).unwrap();
    for command in ["verify card", "inspect card", "image card -o card.img", "verify card.img"] {
        place.ok(command);
    }
    let said = place.run_with("chat card", "/pages\nT 3 7\nP 3\nR\nQ\n").out;
    assert!(said.contains("tag:      7") && said.contains("in RAM only: the card has no sound"), "{said}");
}
