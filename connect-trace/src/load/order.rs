//! The attempts of all threads of a run, in the order in which they ended.
//!
//! A thread can be preempted anywhere between reading a shared counter and its connect(), so a number or a
//! count that it reads before says nothing about the moment of the call. The times of the calls do: by these
//! times the attempts are numbered, and the connections that were open at the end of each are counted.

use super::attempt::Attempt;

/// Events of one thread since they were last collected.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Attempts that ended, in this order. Their number and `held` are not known yet.
    pub(super) attempts: Vec<Attempt>,
    /// Times at which connections were closed, since the beginning of the run.
    pub(super) closed_ns: Vec<u64>,
}

/// Puts the batches of all threads in order.
#[derive(Debug, Default)]
pub(super) struct Order {
    waiting: Batch,
    number: u32,
    held: u32,
}

impl Order {
    /// Adds what a thread has done.
    pub(super) fn add(&mut self, batch: Batch) {
        self.waiting.attempts.extend(batch.attempts);
        self.waiting.closed_ns.extend(batch.closed_ns);
    }

    /// Removes and returns the attempts that ended up to this moment, numbered. All batches up to then must
    /// have been added.
    pub(super) fn take_until(&mut self, moment_ns: u64) -> Vec<Attempt> {
        let Batch {
            attempts,
            closed_ns,
        } = &mut self.waiting;
        attempts.sort_by_key(Attempt::end_ns);
        closed_ns.sort_unstable();
        let ended = attempts.partition_point(|attempt| attempt.end_ns() <= moment_ns);
        let mut closed = 0;
        let taken: Vec<Attempt> = attempts
            .drain(..ended)
            .map(|attempt| {
                let before = closed_ns[closed..].partition_point(|&at| at <= attempt.end_ns());
                closed += before;
                self.held = self.held.saturating_sub(before as u32);
                let numbered = Attempt {
                    number: self.number,
                    held: self.held,
                    ..attempt
                };
                self.number += 1;
                self.held += u32::from(attempt.errno == 0);
                numbered
            })
            .collect();
        closed_ns.drain(..closed);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::figures::tests::attempt;

    fn ended_at(end_ns: u64, port: Option<u16>) -> Attempt {
        Attempt {
            start_ns: end_ns - 21,
            prepare_ns: 1,
            connect_ns: 20,
            ..attempt(9, port)
        }
    }

    fn batch(ends_ns: &[u64], closed_ns: &[u64]) -> Batch {
        Batch {
            attempts: ends_ns
                .iter()
                .map(|&end| ended_at(end, Some(20_000)))
                .collect(),
            closed_ns: closed_ns.to_vec(),
        }
    }

    fn seen(attempts: &[Attempt]) -> Vec<(u64, u32, u32)> {
        let of = |attempt: &Attempt| (attempt.end_ns(), attempt.number, attempt.held);
        attempts.iter().map(of).collect()
    }

    #[test]
    fn attempts_are_numbered_by_their_ends_whatever_thread_made_them() {
        let mut order = Order::default();
        order.add(batch(&[100, 400], &[]));
        order.add(batch(&[200, 300], &[]));
        let until = order.take_until(300);
        assert_eq!(seen(&until), [(100, 0, 0), (200, 1, 1), (300, 2, 2)]);
        order.add(Batch {
            attempts: vec![ended_at(350, None)],
            ..Batch::default()
        });
        let rest = order.take_until(u64::MAX);
        assert_eq!(seen(&rest), [(350, 3, 3), (400, 4, 3)], "350 failed");
    }

    #[test]
    fn a_connection_is_held_until_it_is_closed() {
        let mut order = Order::default();
        order.add(batch(&[100, 200, 400], &[250, 350]));
        assert_eq!(
            seen(&order.take_until(300)),
            [(100, 0, 0), (200, 1, 1)],
            "the first was closed at 250"
        );
        assert_eq!(seen(&order.take_until(400)), [(400, 2, 0)]);
    }
}
