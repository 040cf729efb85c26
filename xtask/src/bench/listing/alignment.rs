//! Which of the instructions of one run are those of another, and which have come or gone.

use std::collections::HashMap;

/// Largest gap, as a product of both sides, whose instructions are compared one by one with each other.
const COMPARED: usize = 1 << 22;

/// An instruction of one of two runs, or of both, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Both(u64),
    Added(u64),
    Gone(u64),
}

/// All steps of both runs, in order. The fixed points are the instructions that each run comes to just once;
/// between two of them one run has mostly nothing.
pub(super) fn align(before: &[u64], after: &[u64]) -> Vec<Step> {
    let mut steps = Vec::with_capacity(after.len());
    align_into(&mut steps, before, after);
    steps
}

fn align_into(steps: &mut Vec<Step>, mut before: &[u64], mut after: &[u64]) {
    let same = |(one, other): &(&u64, &u64)| one == other;
    let begin = before.iter().zip(after).take_while(same).count();
    steps.extend(after[..begin].iter().copied().map(Step::Both));
    (before, after) = (&before[begin..], &after[begin..]);

    let reversed = before.iter().rev().zip(after.iter().rev());
    let end = reversed.take_while(same).count();
    let tail = &after[after.len() - end..];
    before = &before[..before.len() - end];
    after = &after[..after.len() - end];

    if before.is_empty() || after.is_empty() {
        replace(steps, before, after);
    } else {
        let points = fixed_points(before, after);
        if points.is_empty() {
            compare(steps, before, after);
        } else {
            let (mut from_before, mut from_after) = (0, 0);
            for (in_before, in_after) in points {
                align_into(
                    steps,
                    &before[from_before..in_before],
                    &after[from_after..in_after],
                );
                steps.push(Step::Both(after[in_after]));
                (from_before, from_after) = (in_before + 1, in_after + 1);
            }
            align_into(steps, &before[from_before..], &after[from_after..]);
        }
    }
    steps.extend(tail.iter().copied().map(Step::Both));
}

fn replace(steps: &mut Vec<Step>, before: &[u64], after: &[u64]) {
    steps.extend(before.iter().copied().map(Step::Gone));
    steps.extend(after.iter().copied().map(Step::Added));
}

/// Positions of what is once in each, as many as come in the same order.
fn fixed_points(before: &[u64], after: &[u64]) -> Vec<(usize, usize)> {
    let in_before = once(before);
    let in_after = once(after);
    let mut points: Vec<(usize, usize)> = in_before
        .iter()
        .filter_map(|(pc, position)| Some(((*position)?, (*in_after.get(pc)?)?)))
        .collect();
    points.sort_unstable();
    longest_rising(&points)
}

/// Where each is; none where it is more than once.
fn once(instructions: &[u64]) -> HashMap<u64, Option<usize>> {
    let mut positions = HashMap::new();
    for (position, pc) in instructions.iter().enumerate() {
        positions
            .entry(*pc)
            .and_modify(|known| *known = None)
            .or_insert(Some(position));
    }
    positions
}

/// As many of these as rise in both parts, of points that rise in the first.
fn longest_rising(points: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // For each length, the point that ends the sequence that ends lowest; and what comes before each point.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous: Vec<Option<usize>> = Vec::with_capacity(points.len());
    for (index, point) in points.iter().enumerate() {
        let length = ends.partition_point(|end| points[*end].1 < point.1);
        previous.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(index);
        } else {
            ends[length] = index;
        }
    }
    let mut rising = Vec::with_capacity(ends.len());
    let mut next = ends.last().copied();
    while let Some(index) = next {
        rising.push(points[index]);
        next = previous[index];
    }
    rising.reverse();
    rising
}

/// The longest common part, by a table of all lengths.
fn compare(steps: &mut Vec<Step>, before: &[u64], after: &[u64]) {
    let width = after.len() + 1;
    if (before.len() + 1).saturating_mul(width) > COMPARED {
        return replace(steps, before, after);
    }
    // How much the parts from there on have in common.
    let mut common = vec![0u32; (before.len() + 1) * width];
    for row in (0..before.len()).rev() {
        for column in (0..after.len()).rev() {
            let at = row * width + column;
            common[at] = if before[row] == after[column] {
                common[at + width + 1] + 1
            } else {
                common[at + 1].max(common[at + width])
            };
        }
    }
    let (mut row, mut column) = (0, 0);
    while row < before.len() && column < after.len() {
        let at = row * width + column;
        if before[row] == after[column] {
            steps.push(Step::Both(after[column]));
            (row, column) = (row + 1, column + 1);
        } else if common[at + width] >= common[at + 1] {
            steps.push(Step::Gone(before[row]));
            row += 1;
        } else {
            steps.push(Step::Added(after[column]));
            column += 1;
        }
    }
    replace(steps, &before[row..], &after[column..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both runs again, of what was made of them.
    fn runs(steps: &[Step]) -> (Vec<u64>, Vec<u64>) {
        let before = steps.iter().filter_map(|step| match step {
            Step::Both(pc) | Step::Gone(pc) => Some(*pc),
            Step::Added(_) => None,
        });
        let after = steps.iter().filter_map(|step| match step {
            Step::Both(pc) | Step::Added(pc) => Some(*pc),
            Step::Gone(_) => None,
        });
        (before.collect(), after.collect())
    }

    fn text(before: &str, after: &str) -> String {
        let [before, after] =
            [before, after].map(|text| text.bytes().map(u64::from).collect::<Vec<_>>());
        let steps = align(&before, &after);
        assert_eq!(runs(&steps), (before, after), "nothing is lost");
        let sign = |pc: u64| char::from(u8::try_from(pc).unwrap());
        let words = steps.into_iter().map(|step| match step {
            Step::Both(pc) => sign(pc).to_string(),
            Step::Added(pc) => format!("+{}", sign(pc)),
            Step::Gone(pc) => format!("-{}", sign(pc)),
        });
        words.collect()
    }

    #[test]
    fn what_is_put_in_between_is_added() {
        assert_eq!(text("abcdef", "abXYcdZef"), "ab+X+Ycd+Zef");
        assert_eq!(text("", "ab"), "+a+b");
        assert_eq!(text("ab", ""), "-a-b");
        assert_eq!(text("ab", "ab"), "ab");
    }

    #[test]
    fn a_helper_that_the_kernel_uses_too_is_added_where_it_is() {
        // l and u are called by both. Which of two calls is the one that came is not told by themselves.
        assert_eq!(text("alubXluc", "aPluQRSlubXluc"), "a+P+l+u+Q+R+SlubXluc");
        assert_eq!(text("alubXluc", "alubPluXluc"), "alub+P+l+uXluc");
    }

    #[test]
    fn what_comes_instead_is_added_and_the_other_gone() {
        assert_eq!(text("abcXdef", "abcYdef"), "abc-X+Ydef");
        assert_eq!(text("aabb", "bbaa"), "-a-abb+a+a");
    }

    #[test]
    fn of_two_that_have_changed_places_one_stays() {
        assert_eq!(text("axybz", "aybxz"), "a-xyb+xz");
    }

    #[test]
    fn large_runs_without_fixed_points_are_not_compared_one_by_one() {
        let before = [1, 2].repeat(3_000);
        let after = [2, 1, 1, 3].repeat(3_000);
        assert_eq!(runs(&align(&before, &after)), (before, after));
    }
}
