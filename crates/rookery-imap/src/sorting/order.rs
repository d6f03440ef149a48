//! The order that SORT asks for (RFC 5256 §3).

use super::table::{NONE, Table, Text};
use rookery_codec::imap::command::{SortCriterion, SortKey};
use rookery_types::ContentId;

/// A message to be sorted: what memory knows of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sortable {
    /// Its sequence number or UID, as the answer has it.
    pub(crate) number: u32,
    pub(crate) uid: u32,
    /// INTERNALDATE, seconds since 1970.
    pub(crate) date: i64,
    /// Octets.
    pub(crate) size: u32,
    pub(crate) modseq: rookery_types::ModSeq,
    pub(crate) content: ContentId,
}

/// Whether an order needs more than memory knows.
pub(crate) fn needs_table(criteria: &[SortCriterion]) -> bool {
    criteria.iter().any(|criterion| !matches!(criterion.key, SortKey::Arrival | SortKey::Size))
}

/// The places of messages, which stand in ascending order of sequence number, in the order asked for. Where all criteria
/// are equal the sequence number decides.
pub(crate) fn in_order(messages: &[Sortable], criteria: &[SortCriterion], table: &Table) -> Vec<u32> {
    let rows = match needs_table(criteria) {
        true => table.places(messages.iter().map(|message| message.uid)),
        false => Vec::new(),
    };
    // A criterion that stands again decides nothing more.
    let mut asked: Vec<SortCriterion> = Vec::new();
    for criterion in criteria {
        if !asked.iter().any(|one| one.key == criterion.key) {
            asked.push(*criterion);
        }
    }
    let columns: Vec<Vec<u64>> =
        asked.iter().map(|criterion| column(messages, &rows, *criterion, table)).collect();
    let Some((first, others)) = columns.split_first() else {
        return (0u32..).zip(messages).map(|(place, _)| place).collect();
    };
    let mut order: Vec<(u64, u32)> = first.iter().copied().zip(0u32..).collect();
    match others {
        [] => order.sort_unstable(),
        others => order.sort_unstable_by(|(a, at), (b, bt)| {
            let value = |column: &Vec<u64>, place: u32| {
                usize::try_from(place).ok().and_then(|place| column.get(place)).copied()
            };
            let others = || others.iter().map(|column| value(column, *at).cmp(&value(column, *bt)));
            a.cmp(b).then_with(|| others().find(|order| order.is_ne()).unwrap_or_else(|| at.cmp(bt)))
        }),
    }
    order.into_iter().map(|(_, place)| place).collect()
}

/// One criterion as numbers that order as it does.
fn column(messages: &[Sortable], rows: &[u32], criterion: SortCriterion, table: &Table) -> Vec<u64> {
    let text = |text: Text| {
        let ranks = table.ranks(text);
        let rank = |row: &u32| usize::try_from(*row).ok().and_then(|row| ranks.get(row)).copied();
        rows.iter().map(|row| u64::from(rank(row).unwrap_or(0))).collect()
    };
    let mut column: Vec<u64> = match criterion.key {
        SortKey::Arrival => messages.iter().map(|message| ordered(message.date)).collect(),
        SortKey::Size => messages.iter().map(|message| u64::from(message.size)).collect(),
        SortKey::Date => {
            messages.iter().zip(rows).map(|(message, row)| ordered(sent(message, *row, table))).collect()
        }
        SortKey::Subject => text(Text::Subject),
        SortKey::From => text(Text::From),
        SortKey::To => text(Text::To),
        SortKey::Cc => text(Text::Cc),
        SortKey::DisplayFrom => text(Text::DisplayFrom),
        SortKey::DisplayTo => text(Text::DisplayTo),
    };
    if criterion.reverse {
        column.iter_mut().for_each(|value| *value = !*value);
    }
    column
}

/// The sent date; the internal date stands in for one that is missing or makes no sense (RFC 5256 §2.2).
pub(super) fn sent(message: &Sortable, row: u32, table: &Table) -> i64 {
    Some(row).filter(|row| *row != NONE).and_then(|row| table.sent(row)).unwrap_or(message.date)
}

/// A signed number as an unsigned one that orders the same.
fn ordered(n: i64) -> u64 {
    n.cast_unsigned() ^ (1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sorting::table::NewRow;
    use rookery_mime::SortKeys;
    use rookery_types::ModSeq;

    fn message(uid: u32, date: i64, size: u32) -> Sortable {
        let (modseq, content) = (ModSeq::FIRST, ContentId([0; 16]));
        Sortable { number: uid, uid, date, size, modseq, content }
    }

    fn by(key: SortKey, reverse: bool) -> SortCriterion {
        SortCriterion { reverse, key }
    }

    #[test]
    fn ties_go_by_number_also_in_reverse() {
        let messages = [message(1, 5, 9), message(2, -3, 9), message(3, 5, 1)];
        let table = Table::default();
        let order = |criteria: &[SortCriterion]| in_order(&messages, criteria, &table);
        assert_eq!(order(&[by(SortKey::Arrival, false)]), [1, 0, 2]);
        assert_eq!(order(&[by(SortKey::Arrival, true)]), [0, 2, 1]);
        assert_eq!(order(&[by(SortKey::Arrival, true), by(SortKey::Size, false)]), [2, 0, 1]);
        assert_eq!(order(&[by(SortKey::Size, false), by(SortKey::Size, true)]), [2, 0, 1]);
    }

    #[test]
    fn a_sent_date_goes_before_the_internal_one() {
        let row = |uid, sent| NewRow { uid, sent, keys: SortKeys::default() };
        let table = Table::default().with(vec![row(1, Some(100)), row(2, None)]);
        let messages = [message(1, 0, 0), message(2, 50, 0), message(3, 70, 0)];
        assert_eq!(in_order(&messages, &[by(SortKey::Date, false)], &table), [1, 2, 0]);
    }
}
