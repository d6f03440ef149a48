//! Sets of message numbers: as a client writes them, and as resolved UIDs.

use crate::ids::Uid;
use std::fmt;

/// One end of a range in a [`SequenceSet`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetEnd {
    /// A number, from 1.
    Number(u32),
    /// `*`: the largest number in use.
    Largest,
}

/// `sequence-set` of RFC 9051 §9 as the client wrote it: sequence numbers or UIDs, with `*` unresolved.
/// Not empty. `$` (RFC 5182) is the command's business.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SequenceSet {
    ranges: Vec<(SetEnd, SetEnd)>,
}

impl SequenceSet {
    /// `None` if empty or if a number is 0.
    pub fn new(ranges: Vec<(SetEnd, SetEnd)>) -> Option<SequenceSet> {
        let legal = |(a, b): &(SetEnd, SetEnd)| *a != SetEnd::Number(0) && *b != SetEnd::Number(0);
        (!ranges.is_empty() && ranges.iter().all(legal)).then_some(SequenceSet { ranges })
    }

    /// The set of exactly these UIDs; `None` if there are none.
    pub fn from_uids(uids: &UidSet) -> Option<SequenceSet> {
        SequenceSet::new(uids.ranges().map(|(a, b)| (SetEnd::Number(a), SetEnd::Number(b))).collect())
    }

    /// The ranges in the order they were written, ends in the order they were written.
    pub fn ranges(&self) -> &[(SetEnd, SetEnd)] {
        &self.ranges
    }

    /// The numbers meant, ascending and joined, where `*` is `largest` (0: nothing is there, and `*` means
    /// nothing). `5:*` includes `largest` even if that is below 5 (RFC 9051 §9, seq-range).
    pub fn resolve(&self, largest: u32) -> UidSet {
        let number = |end: SetEnd| match end {
            SetEnd::Number(n) => n,
            SetEnd::Largest => largest,
        };
        let mut set = UidSet::new();
        for (a, b) in &self.ranges {
            let (a, b) = (number(*a), number(*b));
            if a != 0 && b != 0 {
                set.insert_range(a.min(b), a.max(b));
            }
        }
        set
    }
}

impl fmt::Display for SequenceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (a, b)) in self.ranges.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let mut end = |end: &SetEnd| match end {
                SetEnd::Number(n) => write!(f, "{n}"),
                SetEnd::Largest => f.write_str("*"),
            };
            end(a)?;
            if a != b {
                f.write_str(":")?;
                match b {
                    SetEnd::Number(n) => write!(f, "{n}")?,
                    SetEnd::Largest => f.write_str("*")?,
                }
            }
        }
        Ok(())
    }
}

/// Numbers from 1, as ascending ranges that neither touch nor overlap. UIDs mostly; where it holds sequence
/// numbers, the variable says so.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct UidSet {
    ranges: Vec<(u32, u32)>,
}

impl UidSet {
    /// The empty set.
    pub fn new() -> UidSet {
        UidSet::default()
    }

    /// All numbers from `first` to `last`, both included; empty if `first > last`. 0 is left out.
    pub fn range(first: u32, last: u32) -> UidSet {
        let mut set = UidSet::new();
        set.insert_range(first, last);
        set
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers are in it.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(a, b)| u64::from(b - a) + 1).sum()
    }

    /// The smallest number.
    pub fn first(&self) -> Option<u32> {
        self.ranges.first().map(|(a, _)| *a)
    }

    /// The largest number.
    pub fn last(&self) -> Option<u32> {
        self.ranges.last().map(|(_, b)| *b)
    }

    /// Whether the number is in it.
    pub fn contains(&self, n: u32) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < n);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= n)
    }

    /// Whether the UID is in it.
    pub fn contains_uid(&self, uid: Uid) -> bool {
        self.contains(uid.get())
    }

    /// Adds one number; cheapest when it is the largest. 0 is ignored.
    pub fn insert(&mut self, n: u32) {
        self.insert_range(n, n);
    }

    /// Adds one UID.
    pub fn insert_uid(&mut self, uid: Uid) {
        self.insert(uid.get());
    }

    /// Adds `first..=last`; nothing if `first > last`. 0 is ignored.
    pub fn insert_range(&mut self, first: u32, last: u32) {
        let first = first.max(1);
        if first > last {
            return;
        }
        // The ranges that touch the new one melt into it.
        let from = self.ranges.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self.ranges.partition_point(|(start, _)| *start <= last.saturating_add(1));
        let melted = self.ranges.get(from..to).unwrap_or(&[]);
        let start = melted.first().map_or(first, |(a, _)| first.min(*a));
        let end = melted.last().map_or(last, |(_, b)| last.max(*b));
        self.ranges.splice(from..to.max(from), [(start, end)]);
    }

    /// Takes `first..=last` out.
    pub fn remove_range(&mut self, first: u32, last: u32) {
        if first > last {
            return;
        }
        let mut kept = Vec::with_capacity(self.ranges.len() + 1);
        for (a, b) in self.ranges.drain(..) {
            if b < first || a > last {
                kept.push((a, b));
                continue;
            }
            if a < first {
                kept.push((a, first - 1));
            }
            if b > last {
                kept.push((last + 1, b));
            }
        }
        self.ranges = kept;
    }

    /// Takes one number out.
    pub fn remove(&mut self, n: u32) {
        self.remove_range(n, n);
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + Clone + '_ {
        self.ranges.iter().copied()
    }

    /// Every number, ascending. Can be four thousand million of them: check [`UidSet::len`] where a client
    /// chose the set.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().flat_map(|(a, b)| *a..=*b)
    }

    /// Every number as a UID, ascending.
    pub fn uids(&self) -> impl Iterator<Item = Uid> + '_ {
        self.iter().filter_map(Uid::new)
    }

    /// What is in both.
    pub fn intersection(&self, other: &UidSet) -> UidSet {
        let mut set = UidSet::new();
        let (mut i, mut j) = (0, 0);
        while let (Some((a, b)), Some((c, d))) = (self.ranges.get(i), other.ranges.get(j)) {
            set.insert_range(*a.max(c), *b.min(d));
            if b < d { i += 1 } else { j += 1 }
        }
        set
    }

    /// What is here and not in `other`.
    pub fn difference(&self, other: &UidSet) -> UidSet {
        let mut set = UidSet::new();
        let mut j = 0;
        for (mut a, b) in self.ranges.iter().copied() {
            while other.ranges.get(j).is_some_and(|(_, d)| *d < a) {
                j += 1;
            }
            let mut k = j;
            let mut done = false;
            while let Some((c, d)) = other.ranges.get(k).copied().filter(|(c, _)| *c <= b) {
                if a < c {
                    set.insert_range(a, c - 1);
                }
                if d >= b {
                    done = true;
                    break;
                }
                a = a.max(d + 1);
                k += 1;
            }
            if !done {
                set.insert_range(a, b);
            }
        }
        set
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &UidSet) {
        for (a, b) in other.ranges() {
            self.insert_range(a, b);
        }
    }
}

impl FromIterator<u32> for UidSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> UidSet {
        let mut set = UidSet::new();
        for n in numbers {
            set.insert(n);
        }
        set
    }
}

impl FromIterator<Uid> for UidSet {
    fn from_iter<I: IntoIterator<Item = Uid>>(uids: I) -> UidSet {
        uids.into_iter().map(Uid::get).collect()
    }
}

/// `uid-set` of RFC 9051 §9: `1:3,7`. Empty text for the empty set.
impl fmt::Display for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (a, b)) in self.ranges.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            if a == b {
                write!(f, "{a}")?;
            } else {
                write!(f, "{a}:{b}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_star_below_the_number_still_means_the_last_message() {
        let set = SequenceSet::new(vec![(SetEnd::Number(500), SetEnd::Largest)]).unwrap();
        assert_eq!(set.resolve(9).to_string(), "9:500");
        assert_eq!(set.resolve(0).to_string(), "");
        assert_eq!(set.to_string(), "500:*");
    }

    fn small_set() -> impl Strategy<Value = BTreeSet<u32>> {
        proptest::collection::btree_set(1u32..40, 0..20)
    }

    proptest! {
        #[test]
        fn sets_agree_with_the_naive_ones(a in small_set(), b in small_set(), r in (1u32..40, 0u32..10)) {
            let set = |s: &BTreeSet<u32>| s.iter().copied().collect::<UidSet>();
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(x.intersection(&y).iter().collect::<BTreeSet<_>>(), &a & &b);
            prop_assert_eq!(x.difference(&y).iter().collect::<BTreeSet<_>>(), &a - &b);
            let mut union = x.clone();
            union.extend(&y);
            prop_assert_eq!(&union, &set(&(&a | &b)));
            prop_assert_eq!(x.len(), a.len() as u64);
            let mut cut = x.clone();
            cut.remove_range(r.0, r.0 + r.1);
            let naive: BTreeSet<u32> = a.iter().copied().filter(|n| *n < r.0 || *n > r.0 + r.1).collect();
            prop_assert_eq!(&cut, &set(&naive));
            for n in 0..45 {
                prop_assert_eq!(x.contains(n), a.contains(&n));
            }
            // Ranges never touch: the same set has one form only.
            let ends: Vec<_> = x.ranges().collect();
            prop_assert!(ends.windows(2).all(|w| w[0].1 + 1 < w[1].0));
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut set = UidSet::range(u32::MAX - 1, u32::MAX);
        set.insert(u32::MAX);
        set.insert_range(1, 1);
        assert_eq!(set.to_string(), "1,4294967294:4294967295");
        assert_eq!(set.len(), 3);
        assert!(set.difference(&UidSet::range(1, u32::MAX)).is_empty());
    }
}
