//! Byte pair encoding: merge the best pair until none is left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No neighbour on this side.
const NONE: u32 = u32::MAX;

/// A token in the text, in a list linked both ways so that a merge costs the same anywhere.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
    /// Whether it was merged into the symbol before it.
    gone: bool,
}

/// A pair that could be merged when it was put into the heap. Orders by rank, then from left to right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    /// Place of the left symbol.
    at: u32,
    /// The two tokens, to see whether they are still there.
    pair: (u32, u32),
    merged: u32,
}

/// Merges neighbours in `ids` until no pair can be: always the pair of the lowest rank, the leftmost of
/// equals. `lookup(left, right)` is the pair's rank and the token it becomes. `O(n log n)`.
///
/// A text of more than `u32::MAX - 1` tokens is left as it is.
pub(super) fn merge(ids: &mut Vec<u32>, lookup: impl Fn(u32, u32) -> Option<(u32, u32)>) {
    let Ok(n) = u32::try_from(ids.len()) else { return };
    let mut symbols: Vec<Symbol> = (0..n)
        .zip(ids.iter())
        .map(|(i, &id)| Symbol {
            id,
            prev: i.checked_sub(1).unwrap_or(NONE),
            next: if i + 1 < n { i + 1 } else { NONE },
            gone: false,
        })
        .collect();

    let candidate = |symbols: &[Symbol], at: u32| {
        let left = symbols.get(at as usize)?;
        let right = symbols.get(left.next as usize)?;
        let (rank, merged) = lookup(left.id, right.id)?;
        Some(Reverse(Candidate { rank, at, pair: (left.id, right.id), merged }))
    };
    let mut heap: BinaryHeap<_> = (0..n).filter_map(|at| candidate(&symbols, at)).collect();

    while let Some(Reverse(best)) = heap.pop() {
        let left = symbols[best.at as usize];
        let Some(&right) = symbols.get(left.next as usize) else { continue };
        if left.gone || (left.id, right.id) != best.pair {
            continue; // One of the two has been merged with another neighbour since.
        }
        symbols[left.next as usize].gone = true;
        symbols[best.at as usize].id = best.merged;
        symbols[best.at as usize].next = right.next;
        if let Some(after) = symbols.get_mut(right.next as usize) {
            after.prev = best.at;
        }
        heap.extend(candidate(&symbols, left.prev)); // NONE is no place, so no candidate.
        heap.extend(candidate(&symbols, best.at));
    }
    *ids = symbols.iter().filter(|s| !s.gone).map(|s| s.id).collect();
}
