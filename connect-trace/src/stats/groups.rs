//! The connect() calls of one report by `--by`, in bounded memory.

use std::{cmp::Reverse, collections::HashMap};

use super::{
    BelowMinimum, Group, Key, Precision,
    by::By,
    distinct::{Distinct, Number},
};
use crate::{
    connect::{Comm, Connect},
    kernel::pods::Pods,
};

/// Largest number of groups that are kept apart at once: 10 MiB if all have times of up to ten seconds. Half of it is
/// the limit of `--top`.
pub(crate) const MOST_GROUPS: usize = 2_048;

/// The connect() calls of one report, grouped by a key.
///
/// All values are exact until there are `MOST_GROUPS` groups. When one more comes, the half with the least time moves
/// to the rest; if a group that was moved occurs again, it starts from zero.
#[derive(Clone, Debug)]
pub struct Groups {
    by: By,
    kept: HashMap<Key, Named>,
    /// Sum of the groups that moved to the rest.
    evicted: Group,
    evicted_keys: Distinct,
    evictions: u64,
    fast: Option<Group>,
    pods: Pods,
}

/// A group with its key.
#[derive(Clone, Debug)]
pub struct Named {
    /// The key that its calls have in common.
    pub key: Key,
    /// The thread of the latest call, if the key is a process.
    pub comm: Option<Comm>,
    /// Times of its calls.
    pub group: Group,
}

/// The groups with the most time, and all others.
#[derive(Clone, Debug)]
pub struct Top {
    /// The groups, the most time first.
    pub groups: Vec<Named>,
    /// All other groups as one; `None` if there are none.
    pub rest: Option<Rest>,
    /// The calls of which the kernel only kept sums, and whose groups are not known; `None` if there are none.
    pub fast: Option<Group>,
}

/// The groups that are not shown individually.
#[derive(Clone, Debug)]
pub struct Rest {
    /// Number of different groups.
    pub groups: Number,
    /// Number of times that a group was moved here for lack of room.
    pub evictions: u64,
    /// Times of their calls.
    pub group: Group,
}

impl Groups {
    /// Creates an empty set of groups.
    #[must_use]
    pub fn new(by: By) -> Self {
        Self {
            by,
            kept: HashMap::new(),
            evicted: Group::new(precision(by)),
            evicted_keys: Distinct::default(),
            evictions: 0,
            fast: None,
            pods: Pods::default(),
        }
    }

    /// Returns the key by which the calls are split.
    #[must_use]
    pub fn by(&self) -> By {
        self.by
    }

    /// Returns the precision of the percentiles.
    #[must_use]
    pub fn precision(&self) -> Precision {
        precision(self.by)
    }

    /// Takes over the pods that were found for another set of groups.
    pub(super) fn keep_pods_of(&mut self, other: &mut Self) {
        self.pods = std::mem::take(&mut other.pods);
    }

    /// Adds one connect().
    pub fn record(&mut self, connect: &Connect) {
        let key = match self.by {
            By::Pod => Key::Pod(self.pods.of(connect.cgroup_id)),
            by => Key::of(connect, by),
        };
        if self.kept.len() >= MOST_GROUPS && !self.kept.contains_key(&key) {
            self.make_room();
        }
        let named = self.kept.entry(key).or_insert_with(|| Named {
            key,
            comm: None,
            group: Group::new(precision(self.by)),
        });
        named.group.record(connect);
        if self.by == By::Pid {
            named.comm = Some(connect.comm);
        }
    }

    /// Moves the half with the least time to the rest: half at once, so that this happens rarely.
    fn make_room(&mut self) {
        for named in sorted(std::mem::take(&mut self.kept)) {
            if self.kept.len() < MOST_GROUPS / 2 {
                self.kept.insert(named.key, named);
            } else {
                self.evicted.merge(&named.group);
                self.evicted_keys.insert(&named.key);
                self.evictions += 1;
            }
        }
    }

    /// Adds the calls that were too fast for a record: their keys are not known.
    pub fn merge_fast(&mut self, fast: &BelowMinimum) {
        if fast.count() > 0 {
            self.fast = Some(fast.together());
        }
    }

    /// Returns the `most` groups with the most time in connect(), and the rest.
    #[must_use]
    pub fn top(self, most: usize) -> Top {
        let mut groups = sorted(self.kept);
        let (mut group, mut keys) = (self.evicted, self.evicted_keys);
        for named in groups.drain(most.min(groups.len())..) {
            group.merge(&named.group);
            keys.insert(&named.key);
        }
        // A group that occurred again is partly in the rest, but is not counted there.
        for named in &groups {
            keys.remove(&named.key);
        }
        Top {
            groups,
            rest: (group.connect.count() > 0).then(|| Rest {
                groups: keys.number(),
                evictions: self.evictions,
                group,
            }),
            fast: self.fast,
        }
    }
}

/// Returns fine precision for keys that have few values.
fn precision(by: By) -> Precision {
    match by {
        By::Parity | By::Pass | By::Protocol | By::Family => Precision::Fine,
        _ => Precision::Coarse,
    }
}

/// Sorts groups by time in connect(), the most first; groups with equal times in an order that is the same in each
/// report.
fn sorted(kept: HashMap<Key, Named>) -> Vec<Named> {
    let mut all: Vec<Named> = kept.into_values().collect();
    all.sort_by_cached_key(|named| {
        let time = Reverse(named.group.connect.total_ns());
        (time, format!("{:?}", named.key))
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    fn of_pid(pid: u32, connect_ns: u64) -> Connect {
        Connect {
            pid,
            connect_ns,
            comm: Comm::of(&format!("name{pid}")),
            ..connect_from(20_000)
        }
    }

    fn total(top: &Top) -> (u64, u128) {
        let groups = top.groups.iter().map(|named| &named.group);
        let all = groups.chain(top.rest.iter().map(|rest| &rest.group));
        all.fold((0, 0), |(count, ns), group| {
            (count + group.connect.count(), ns + group.connect.total_ns())
        })
    }

    #[test]
    fn the_most_time_comes_first_and_the_rest_is_one_group() {
        let mut groups = Groups::new(By::Pid);
        for (pid, ns) in [(1, 10), (2, 500), (3, 300), (2, 500), (4, 20), (1, 10)] {
            groups.record(&of_pid(pid, ns));
        }
        let top = groups.top(2);
        let keys: Vec<Key> = top.groups.iter().map(|named| named.key).collect();
        assert_eq!(keys, [Key::Pid(2), Key::Pid(3)]);
        assert_eq!(top.groups[0].comm, Some(Comm::of("name2")));
        assert_eq!(total(&top), (6, 1_340));
        let rest = top.rest.unwrap();
        assert_eq!((rest.groups, rest.evictions), (2.into(), 0));
        assert_eq!(rest.group.connect.count(), 3);
        assert!(rest.group.connect.has_percentiles());
        assert!(top.fast.is_none());
    }

    #[test]
    fn all_groups_shown_leave_no_rest() {
        let mut groups = Groups::new(By::Comm);
        groups.record(&connect_from(20_000));
        let top = groups.top(10);
        assert_eq!((top.groups.len(), top.rest.is_none()), (1, true));
        assert_eq!(top.groups[0].comm, None);
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_left_out_whatever_comes() {
        let mut groups = Groups::new(By::Pid);
        let mut ns = 0;
        for pid in 0..30_000 {
            groups.record(&of_pid(pid, u64::from(pid % 7)));
            ns += u128::from(pid % 7);
            // A group with steady traffic is never moved to the rest.
            groups.record(&of_pid(30_000, 1_000));
            ns += 1_000;
            assert!(groups.kept.len() <= MOST_GROUPS);
        }
        let top = groups.top(3);
        assert_eq!(total(&top), (60_000, ns));
        assert_eq!(top.groups[0].key, Key::Pid(30_000));
        assert_eq!(top.groups[0].group.connect.count(), 30_000);
        let rest = top.rest.unwrap();
        assert_eq!(rest.groups, (30_000 + 1 - 3).into());
        assert!(rest.evictions > 25_000);
    }

    #[test]
    fn a_group_that_goes_to_the_rest_again_and_again_is_one() {
        let mut groups = Groups::new(By::Pid);
        for _ in 0..10 {
            for pid in 0..=MOST_GROUPS as u32 {
                groups.record(&of_pid(pid, 100));
            }
        }
        let all = groups.clone().top(MOST_GROUPS);
        let rest = all.rest.as_ref().unwrap();
        assert_eq!(rest.groups, (MOST_GROUPS + 1 - all.groups.len()).into());
        assert!(rest.evictions > MOST_GROUPS as u64, "{}", rest.evictions);
        let few = groups.top(3);
        assert_eq!(few.rest.unwrap().groups, (MOST_GROUPS + 1 - 3).into());
        assert_eq!(
            total(&all),
            (
                10 * (MOST_GROUPS as u64 + 1),
                100 * 10 * (MOST_GROUPS as u128 + 1)
            )
        );
    }

    #[test]
    fn fast_connects_are_apart_for_their_keys_are_not_known() {
        let mut groups = Groups::new(By::Pid);
        groups.merge_fast(&BelowMinimum::default());
        assert!(groups.clone().top(1).fast.is_none());
        groups.merge_fast(&crate::fixtures::below_minimum(4));
        assert_eq!(groups.top(1).fast.unwrap().connect.count(), 8);
    }
}
