//! Tables of family members that are arithmetic, not knowledge.

/// The rows of the table with this name, or `None` if there is no such table.
///
/// - `sums`: `x, y, x + y` for x and y from 1 to 10;
/// - `differences`: `x, y, x - y` for x from 1 to 10 and y from 1 to x;
/// - `successors`: `n, n + 1` for n from 0 to 20; `predecessors`: `n, n - 1` for n from 1 to 21;
/// - `letters`: each letter from A to Y and the next one.
pub fn rows(name: &str) -> Option<Vec<Vec<String>>> {
    let row = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>();
    Some(match name {
        "sums" => (1..=10).flat_map(|x| (1..=10).map(move |y| row(&[x, y, x + y]))).collect(),
        "differences" => (1..=10).flat_map(|x| (1..=x).map(move |y| row(&[x, y, x - y]))).collect(),
        "successors" => (0..=20).map(|n| row(&[n, n + 1])).collect(),
        "predecessors" => (1..=21).map(|n| row(&[n, n - 1])).collect(),
        "letters" => ('A'..='Y')
            .zip('B'..='Z')
            .map(|(letter, next)| vec![letter.to_string(), next.to_string()])
            .collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn tables_are_complete() {
        let count = |name| rows(name).unwrap().len();
        assert_eq!((count("sums"), count("differences")), (100, 55));
        assert_eq!((count("successors"), count("predecessors"), count("letters")), (21, 21, 25));
        assert!(rows("sums").unwrap().contains(&vec!["7".into(), "8".into(), "15".into()]));
        assert!(rows("letters").unwrap().contains(&vec!["Y".into(), "Z".into()]));
        assert!(rows("primes").is_none());
    }
}
