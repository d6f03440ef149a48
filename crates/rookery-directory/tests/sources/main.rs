//! One suite for every source of the directory, and for the copies that follow it.

// The lint's exception for tests does not reach the helper functions of a test crate.
#![allow(clippy::unwrap_used)]

mod away;
mod contract;
#[cfg(feature = "etcd")]
mod etcd;
mod following;
mod moving;
mod property;
mod seen;
mod turns;
mod world;

/// Makes the tests of the suite for a kind of source.
macro_rules! suite {
    ($module:ident, $world:expr) => {
        mod $module {
            use super::{contract, following};

            suite!(@each $world;
                contract::a_batch_is_applied_whole_or_not_at_all,
                contract::writers_at_the_same_time_are_put_in_an_order,
                contract::changes_come_once_and_in_order_from_any_position,
                contract::pages_together_are_the_whole,
                contract::what_is_too_large_is_refused,
                contract::changes_that_are_forgotten_are_not_skipped,
                contract::another_history_is_not_followed,
                following::what_one_node_changes_every_node_sees_after_a_barrier,
                following::nodes_that_change_the_same_agree,
                following::lost_answers_are_looked_up,
                following::a_copy_that_was_cut_off_for_long_never_shows_less,
                following::a_copy_goes_on_from_where_it_was,
                following::a_source_that_went_back_is_refused,
                following::a_domain_is_removed_only_if_nothing_is_in_it,
                following::large_groups_go_in_steps,
                following::an_account_goes_only_where_it_was_sent,
            );
        }
    };
    (@each $world:expr; $($part:ident::$test:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $part::$test(&$world).await;
            }
        )*
    };
}

suite!(in_memory, crate::world::InMemory::new());
suite!(embedded, crate::world::Embedded::new());
suite!(over_a_channel, crate::world::Remote::new());
#[cfg(feature = "etcd")]
suite!(in_etcd, crate::etcd::Etcd::start(1));
