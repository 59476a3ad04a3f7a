//! ECDSA signatures over secp256k1 with the lower of the two values that S may have.
//! Enters: r then s at full length, as the token made them; about half of all tokens' signatures have the higher one.
//! Leaves: the same signature, equally valid, in the form that Bitcoin, Ethereum and their kin insist on (BIP 146).

/// The order of the group.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba,
    0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// Replaces s by n - s where that is less. What is no signature of this curve's length is left alone.
pub(crate) fn normalise(signature: &mut [u8]) {
    let Ok(signature) = <&mut [u8; 64]>::try_from(signature) else { return };
    let mut s = [0; 32];
    s.copy_from_slice(&signature[32..]);
    let other = minus(&ORDER, &s);
    // Big-endian numbers of one length compare like their bytes.
    if other < s {
        signature[32..].copy_from_slice(&other);
    }
}

fn minus(from: &[u8; 32], what: &[u8; 32]) -> [u8; 32] {
    let (mut out, mut borrow) = ([0; 32], false);
    for at in (0..32).rev() {
        let (first, over) = from[at].overflowing_sub(what[at]);
        let (second, under) = first.overflowing_sub(u8::from(borrow));
        (out[at], borrow) = (second, over || under);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_value_is_replaced_by_its_counterpart_and_the_lower_one_stays() {
        let mut one = [0; 32];
        one[31] = 1;
        let mut high = [[7; 32], minus(&ORDER, &one)].concat();
        normalise(&mut high);
        assert_eq!(high, [[7; 32], one].concat());
        normalise(&mut high);
        assert_eq!(high, [[7; 32], one].concat());
    }

    #[test]
    fn both_sides_of_the_middle_come_out_in_the_lower_half() {
        // n is odd: (n - 1) / 2 and (n + 1) / 2 are counterparts.
        let mut half = ORDER;
        let mut carry = 0;
        for byte in &mut half {
            let whole = u16::from(*byte) | carry << 8;
            (*byte, carry) = ((whole >> 1) as u8, whole & 1);
        }
        let above = minus(&ORDER, &half);
        assert!(above > half);
        for s in [half, above] {
            let mut signature = [[7; 32], s].concat();
            normalise(&mut signature);
            assert_eq!(signature[32..], half);
        }
    }
}
