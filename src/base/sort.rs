//! Sorting by heap, in a few hundred bytes of code: std's sorts take 3 to 6 KB for each type
//! that is sorted. Equal items come in no particular order.

use std::cmp::Ordering;

/// The smallest first.
pub(crate) fn ascending<T: Ord>(items: &mut [T]) {
    by(items, &T::cmp);
}

/// In the order that `compare` says.
pub(crate) fn by<T>(items: &mut [T], compare: &dyn Fn(&T, &T) -> Ordering) {
    for root in (0..items.len() / 2).rev() {
        sift_down(items, root, compare);
    }
    // Each time the greatest item is at the root of the heap, which is all before `end`.
    for end in (1..items.len()).rev() {
        items.swap(0, end);
        sift_down(&mut items[..end], 0, compare);
    }
}

/// Moves the item at `at` down, until no item below it is greater.
fn sift_down<T>(heap: &mut [T], mut at: usize, compare: &dyn Fn(&T, &T) -> Ordering) {
    loop {
        let mut child = 2 * at + 1;
        if child >= heap.len() {
            return;
        }
        if child + 1 < heap.len() && compare(&heap[child], &heap[child + 1]).is_lt() {
            child += 1;
        }
        if compare(&heap[at], &heap[child]).is_ge() {
            return;
        }
        heap.swap(at, child);
        at = child;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_like_std() {
        for len in 0..40_u32 {
            for factor in [0, 1, 7, 11, 1 << 20] {
                let mut items: Vec<u32> = (0..len).map(|n| n.wrapping_mul(factor) % 37).collect();
                let mut want = items.clone();
                want.sort();
                ascending(&mut items);
                assert_eq!(items, want);
                want.reverse();
                by(&mut items, &|a, b| b.cmp(a));
                assert_eq!(items, want);
            }
        }
    }
}
