//! LIST and LSUB.

use super::command::status_item;
use super::scan::{Fault, Parsed, Scanner};
use crate::imap::command::{Command, List, ListReturn, ListSelect};

/// ```abnf
/// list = "LIST" [SP list-select-opts] SP mailbox SP mbox-or-pat [SP list-return-opts]
/// ```
pub(crate) fn list(s: &mut Scanner<'_>) -> Parsed<List> {
    let mut select = ListSelect::default();
    let mut extended = false;
    if s.peek() == Some(b'(') {
        extended = true;
        select = select_options(s)?;
        s.sp()?;
    }
    let reference = s.mailbox()?;
    s.sp()?;
    let patterns = if s.peek() == Some(b'(') {
        extended = true;
        s.list1(Scanner::list_mailbox)?
    } else {
        vec![s.list_mailbox()?]
    };
    let mut returns = ListReturn::default();
    if s.take_word(" RETURN ") {
        extended = true;
        returns = return_options(s)?;
    }
    Ok(List { select, reference, patterns, returns, extended })
}

/// ```abnf
/// list-select-opts = "(" [*(list-select-opt SP) list-select-base-opt *(SP list-select-opt)
///                    / (list-select-independent-opt *(SP list-select-independent-opt))] ")"
/// ```
fn select_options(s: &mut Scanner<'_>) -> Parsed<ListSelect> {
    let mut select = ListSelect::default();
    s.list(|s| {
        match &*s.atom_upper()? {
            "SUBSCRIBED" => select.subscribed = true,
            "REMOTE" => select.remote = true,
            "RECURSIVEMATCH" => select.recursive_match = true,
            "SPECIAL-USE" => select.special_use = true,
            _ => return Err(Fault("Unknown selection option")),
        }
        Ok(())
    })?;
    // RFC 5258 §3.1: RECURSIVEMATCH alone, or with REMOTE only, is BAD.
    if select.recursive_match && !select.subscribed && !select.special_use {
        return Err(Fault("RECURSIVEMATCH needs an option that selects"));
    }
    Ok(select)
}

/// ```abnf
/// list-return-opts = "RETURN" SP "(" [return-option *(SP return-option)] ")"
/// status-option    = "STATUS" SP "(" status-att *(SP status-att) ")"
/// return-option    =/ "METADATA" SP "(" entry *(SP entry) ")"    ; RFC 9590
/// ```
fn return_options(s: &mut Scanner<'_>) -> Parsed<ListReturn> {
    let mut returns = ListReturn::default();
    s.list(|s| {
        match &*s.atom_upper()? {
            "SUBSCRIBED" => returns.subscribed = true,
            "CHILDREN" => returns.children = true,
            "SPECIAL-USE" => returns.special_use = true,
            "MYRIGHTS" => returns.my_rights = true,
            "STATUS" => {
                s.sp()?;
                returns.status = s.list1(status_item)?;
            }
            "METADATA" => {
                s.sp()?;
                returns.metadata = s.list1(Scanner::astring)?;
            }
            _ => return Err(Fault("Unknown return option")),
        }
        Ok(())
    })?;
    Ok(returns)
}

/// ```abnf
/// lsub = "LSUB" SP mailbox SP list-mailbox
/// ```
pub(crate) fn lsub(s: &mut Scanner<'_>) -> Parsed<Command> {
    let reference = s.mailbox()?;
    s.sp()?;
    Ok(Command::Lsub { reference, pattern: s.list_mailbox()? })
}
