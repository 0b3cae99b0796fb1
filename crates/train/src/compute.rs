//! The loss and gradient of a batch on several threads, with the same bits for any number of them.
//!
//! A batch is dealt to a fixed number of *shards*, whatever the number of threads; a shard has its own sum of gradients and is computed by
//! one thread, in one order; the shards' sums are then added in one order. Threads only decide who computes which shard.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::network::{Dropout, Network, Objective, Packed, Teacher, Workspace};
use crate::vector::{add_assign, dot, vectorized};
use crate::{Example, LossSums};

/// Parts of a batch. Also the largest number of threads that is of any use.
pub const SHARDS: usize = 8;
/// Rows that go through the network together, unless one sequence has more: as many as the caches like.
const ROWS: usize = 512;
/// Weights that one thread adds, or updates, at a time.
pub(crate) const RANGE: usize = 1 << 15;

/// Threads, and the buffers that they work in.
#[derive(Debug)]
pub struct Compute {
    workspaces: Vec<Mutex<Workspace>>, // one a thread
    shards: Vec<Vec<f32>>,             // (SHARDS, weights), zero between batches
    total: Vec<f32>,                   // (weights)
}

/// What the gradient of a batch is computed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub examples: &'a [&'a Example],
    pub teacher: Option<Teacher<'a>>,
    pub dropout: Option<Dropout>,
}

/// Loss and size of the gradient of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchLoss {
    /// Sums over the batch's scored tokens.
    pub sums: LossSums,
    /// Euclidean norm of the gradient of the mean loss.
    pub gradient_norm: f32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A workspace holds nothing that a panicking thread could leave inconsistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Compute {
    /// Buffers for `threads` threads (at least one, at most [`SHARDS`]).
    pub fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, SHARDS);
        Compute {
            workspaces: (0..threads).map(|_| Mutex::default()).collect(),
            shards: vec![],
            total: vec![],
        }
    }

    /// Calls `work` for every job, on any thread and in any order.
    pub(crate) fn run<T: Send>(&self, jobs: Vec<T>, work: impl Fn(&mut Workspace, T) + Sync) {
        let jobs = Mutex::new(jobs.into_iter());
        let worker = |workspace: &Mutex<Workspace>| {
            let mut workspace = lock(workspace);
            loop {
                let job = lock(&jobs).next();
                match job {
                    Some(job) => work(&mut workspace, job),
                    None => break,
                }
            }
        };
        std::thread::scope(|scope| {
            for workspace in &self.workspaces[1..] {
                scope.spawn(|| worker(workspace));
            }
            worker(&self.workspaces[0]);
        });
    }

    /// Computes the gradient of the mean loss over the batch's scored tokens; it is in [`Compute::total`] then.
    pub(crate) fn gradient(&mut self, network: &Network, weights: &[f32], batch: Batch) -> BatchLoss {
        let scored: usize = batch.examples.iter().map(|e| e.scored_tokens()).sum();
        let token_weight = 1.0 / scored.max(1) as f32;
        let parts = deal(batch.examples);
        let mut shards = std::mem::take(&mut self.shards);
        shards.resize_with(parts.len().max(shards.len()), Vec::new);
        shards.iter_mut().for_each(|s| s.resize(weights.len(), 0.0));
        let mut losses = vec![LossSums::default(); parts.len()];

        let jobs: Vec<_> = parts.iter().zip(&mut shards).zip(&mut losses).enumerate().collect();
        self.run(jobs, |workspace, (shard, ((part, grads), loss))| {
            for (piece, rows) in pieces(part).enumerate() {
                let packed = Packed::new(rows.iter().copied());
                let stream = (shard as u64) << 32 | piece as u64;
                let dropout = batch.dropout.map(|d| Dropout { batch: d.batch ^ stream << 20, ..d });
                let objective = Objective { token_weight, teacher: batch.teacher, dropout };
                *loss += network.gradient(grads, weights, &packed, objective, workspace);
            }
        });

        let squares = self.add_shards(&mut shards, parts.len(), weights.len());
        self.shards = shards;
        let mut sums = LossSums::default();
        losses.into_iter().for_each(|l| sums += l);
        BatchLoss { sums, gradient_norm: squares.sqrt() as f32 }
    }

    /// Adds the first `used` shards, in order, to the total, zeroes them, and returns the total's squared norm.
    fn add_shards(&mut self, shards: &mut [Vec<f32>], used: usize, len: usize) -> f64 {
        let mut total = std::mem::take(&mut self.total);
        total.resize(len, 0.0);
        let mut squares = vec![0.0f64; len.div_ceil(RANGE)];
        let mut jobs: Vec<_> =
            total.chunks_mut(RANGE).zip(&mut squares).map(|job| (job, Vec::with_capacity(used))).collect();
        for shard in &mut shards[..used] {
            jobs.iter_mut().zip(shard.chunks_mut(RANGE)).for_each(|(job, part)| job.1.push(part));
        }
        self.run(jobs, |_, ((total, squares), parts)| {
            total.fill(0.0);
            for part in parts {
                add(total, part);
                part.fill(0.0);
            }
            // Short pieces: their f32 sums lose nothing that matters.
            *squares = total.chunks(256).map(|c| squared_norm(c) as f64).sum();
        });
        self.total = total;
        squares.iter().sum()
    }

    /// The gradient that was computed last.
    pub fn total(&self) -> &[f32] {
        &self.total
    }

    /// [`Compute::total`], to take out and put back.
    pub(crate) fn total_mut(&mut self) -> &mut Vec<f32> {
        &mut self.total
    }

    /// Root of the mean square of each weight's input over `examples`; 0 for what is not a matrix, and for the embedding. (weights)
    pub fn input_rms(&self, network: &Network, weights: &[f32], examples: &[Example]) -> Vec<f32> {
        let examples: Vec<_> = examples.iter().collect();
        let mut sums: Vec<_> = pieces(&examples).map(|piece| (piece, network.no_squares())).collect();
        self.run(sums.iter_mut().collect(), |workspace, (examples, squares)| {
            network.add_input_squares(squares, weights, &Packed::new(examples.iter().copied()), workspace);
        });
        let mut total = network.no_squares();
        for (_, squares) in &sums {
            for (total, squares) in total.iter_mut().zip(squares) {
                add_assign(total, squares);
            }
        }
        let rows: usize = examples.iter().map(|e| e.inputs().len()).sum();
        let mut inputs = vec![0.0; weights.len()];
        for (view, squares) in network.layout().views().iter().zip(&total).filter(|(_, s)| !s.is_empty()) {
            for row in inputs[view.range.clone()].chunks_exact_mut(view.cols) {
                row.iter_mut().zip(squares).for_each(|(x, s)| *x = (s / rows.max(1) as f32).sqrt());
            }
        }
        inputs
    }

    /// Mean square of each weight's gradient, over the gradients of single examples (the diagonal of the empirical Fisher information).
    pub fn squared_gradients(
        &mut self,
        network: &Network,
        weights: &[f32],
        examples: &[Example],
    ) -> Vec<f32> {
        let mut squares = vec![0.0; weights.len()];
        for example in examples {
            self.gradient(network, weights, Batch { examples: &[example], teacher: None, dropout: None });
            let part = 1.0 / examples.len() as f32;
            squares.iter_mut().zip(&self.total).for_each(|(s, g)| *s += g * g * part);
        }
        squares
    }

    /// Loss over all scored tokens of `examples`.
    pub fn evaluate(&self, network: &Network, weights: &[f32], examples: &[Example]) -> LossSums {
        let examples: Vec<_> = examples.iter().collect();
        let pieces: Vec<_> = pieces(&examples).collect();
        let mut losses = vec![LossSums::default(); pieces.len()];
        let jobs: Vec<_> = pieces.into_iter().zip(&mut losses).collect();
        self.run(jobs, |workspace, (examples, loss)| {
            *loss = network.evaluate(weights, &Packed::new(examples.iter().copied()), workspace);
        });
        let mut sums = LossSums::default();
        losses.into_iter().for_each(|l| sums += l);
        sums
    }
}

vectorized! { fn add<'a>(y: &'a mut [f32], x: &'a [f32]) = add_assign; }
vectorized! { fn squared_norm<'a>(x: &'a [f32]) -> f32 = norm2; }

#[inline(always)]
fn norm2(x: &[f32]) -> f32 {
    dot(x, x)
}

/// Deals a batch to at most [`SHARDS`] shards with about the same number of tokens each: the longest first, each to the emptiest.
fn deal<'a>(examples: &[&'a Example]) -> Vec<Vec<&'a Example>> {
    let mut order: Vec<_> = examples.to_vec();
    order.sort_by_key(|e| std::cmp::Reverse(e.inputs().len())); // stable
    let mut shards: Vec<(usize, Vec<&Example>)> = vec![(0, vec![]); SHARDS.min(order.len())];
    for example in order {
        if let Some((tokens, shard)) = shards.iter_mut().min_by_key(|(tokens, _)| *tokens) {
            *tokens += example.inputs().len();
            shard.push(example);
        }
    }
    shards.into_iter().map(|(_, shard)| shard).collect()
}

/// Cuts a list of examples into pieces of at most [`ROWS`] rows, or one example.
fn pieces<'a, 'b>(examples: &'b [&'a Example]) -> impl Iterator<Item = &'b [&'a Example]> {
    let mut rest = examples;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = rest.iter().take_while(|e| {
            rows += e.inputs().len();
            rows <= ROWS
        });
        let (piece, others) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = others;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(length: usize) -> Example {
        Example::all(vec![0; length + 1]).unwrap()
    }

    #[test]
    fn nothing_is_lost_in_dealing() {
        let examples: Vec<_> = [5, 700, 3, 3, 512, 1, 90, 90, 90, 4, 4, 4].map(example).to_vec();
        let refs: Vec<_> = examples.iter().collect();
        let shards = deal(&refs);
        assert_eq!(shards.len(), SHARDS);
        assert_eq!(shards.iter().flatten().count(), 12);
        let cut: Vec<_> = pieces(&refs).map(|p| p.len()).collect();
        assert_eq!(cut, [1, 1, 2, 1, 7]);
        assert_eq!(pieces(&[]).count(), 0);
        assert_eq!(deal(&refs[..2]).len(), 2);
    }
}
