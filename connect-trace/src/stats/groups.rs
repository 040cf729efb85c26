//! The connects of one report by `--by`, in bounded memory.

use std::{cmp::Reverse, collections::HashMap};

use super::{
    BelowMinimum, Group, Key, Precision,
    by::By,
    distinct::{Distinct, Number},
};
use crate::connect::{Comm, Connect};

/// Most groups that are kept apart at once: 10 MiB where all have times of up to ten seconds. Half of
/// them are as many as `--top` can show.
pub const MOST_GROUPS: usize = 2_048;

/// The connects of one report, by what they have in common.
///
/// All figures are exact until [`MOST_GROUPS`] groups are there. When one more comes, the half with the
/// least time goes to the rest; a group that comes again after that begins anew.
#[derive(Clone, Debug)]
pub struct Groups {
    by: By,
    kept: HashMap<Key, Named>,
    /// What went to the rest.
    evicted: Group,
    evicted_keys: Distinct,
    evictions: u64,
    fast: Option<Group>,
}

/// A group and what it is called.
#[derive(Clone, Debug)]
pub struct Named {
    /// What its connects have in common.
    pub key: Key,
    /// The thread that came last, where the key is a process.
    pub comm: Option<Comm>,
    /// Their times.
    pub group: Group,
}

/// The groups with the most time, and all others.
#[derive(Clone, Debug)]
pub struct Top {
    /// The most time first.
    pub groups: Vec<Named>,
    /// All other groups as one; `None` where there are none.
    pub rest: Option<Rest>,
    /// Those of which the kernel only kept sums, whatever their groups; `None` without them.
    pub fast: Option<Group>,
}

/// The groups that are not shown each.
#[derive(Clone, Debug)]
pub struct Rest {
    /// How many there are, each once however often it was moved here.
    pub groups: Number,
    /// How often a group was moved here for want of room.
    pub evictions: u64,
    /// Their times.
    pub group: Group,
}

impl Groups {
    /// None yet.
    #[must_use]
    pub fn new(by: By) -> Self {
        Self {
            by,
            kept: HashMap::new(),
            evicted: Group::new(precision(by)),
            evicted_keys: Distinct::default(),
            evictions: 0,
            fast: None,
        }
    }

    /// What they are split by.
    #[must_use]
    pub fn by(&self) -> By {
        self.by
    }

    /// How exact the percentiles are.
    #[must_use]
    pub fn precision(&self) -> Precision {
        precision(self.by)
    }

    /// Adds one connect.
    pub fn record(&mut self, connect: &Connect) {
        let key = Key::of(connect, self.by);
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

    /// Moves the half with the least time to the rest: all at once, so that this is seldom.
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

    /// Adds the connects that were too fast for a record: no key of them is known.
    pub fn merge_fast(&mut self, fast: &BelowMinimum) {
        if fast.count() > 0 {
            self.fast = Some(fast.together());
        }
    }

    /// The `most` groups with the most time in connect(), and the rest.
    #[must_use]
    pub fn top(self, most: usize) -> Top {
        let mut groups = sorted(self.kept);
        let (mut group, mut keys) = (self.evicted, self.evicted_keys);
        for named in groups.drain(most.min(groups.len())..) {
            group.merge(&named.group);
            keys.insert(&named.key);
        }
        // Part of one that came again is in the rest too, but it is no further group.
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

/// Keys that are few by nature have fine percentiles.
fn precision(by: By) -> Precision {
    match by {
        By::Parity | By::Pass | By::Family => Precision::Fine,
        _ => Precision::Coarse,
    }
}

/// The most time in connect() first; where it is the same, an order that does not change from one
/// report to the next.
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
            // One that always comes is never moved to the rest.
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
