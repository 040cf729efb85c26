//! Power-of-ten buckets of nanoseconds, the same in the kernel and in the daemon.

/// Number of buckets. Bucket 0 holds 0 ≤ t < 10 ns, bucket `i` holds 10^i ≤ t < 10^(i+1) ns, and the last bucket holds
/// all times from 10 s up.
pub const BUCKETS: usize = 11;

/// Returns the bucket of a time of `ns` nanoseconds. The lower edge belongs to the bucket, the upper edge does not:
/// 999 ns falls in bucket 2 and 1,000 ns in bucket 3.
///
/// Compares with constants only, so that the verifier sees the bound of the result and the kernel needs no division. The
/// buckets of most calls, from 1 µs to 1 ms, are found by three comparisons.
#[inline(always)]
#[must_use]
pub fn power_of_ten(ns: u64) -> usize {
    let (mut bucket, mut edge, last) = if ns < 100_000 {
        if ns >= 10_000 {
            return 4;
        }
        if ns >= 1_000 {
            return 3;
        }
        (0, 10, 2)
    } else if ns < 1_000_000 {
        return 5;
    } else {
        (6, 10_000_000, BUCKETS - 1)
    };
    while bucket < last && ns >= edge {
        bucket += 1;
        edge *= 10;
    }
    bucket
}

/// Returns the lower edge of a bucket in nanoseconds (0 for the first).
#[must_use]
pub const fn lower_edge_ns(bucket: usize) -> u64 {
    if bucket == 0 {
        0
    } else {
        10_u64.pow(bucket as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_power_of_ten_opens_its_bucket() {
        for exponent in 1..BUCKETS {
            let edge = 10_u64.pow(exponent as u32);
            assert_eq!(power_of_ten(edge - 1), exponent - 1, "below 10^{exponent}");
            assert_eq!(power_of_ten(edge), exponent, "at 10^{exponent}");
            assert_eq!(lower_edge_ns(exponent), edge);
        }
    }

    #[test]
    fn the_first_and_the_last_bucket_are_open() {
        assert_eq!(power_of_ten(0), 0);
        assert_eq!(lower_edge_ns(0), 0);
        assert_eq!(power_of_ten(u64::MAX), BUCKETS - 1);
    }
}
