//! Which sessions of Postgres hold advisory locks.

/// `SELECT` what is given of the sessions in this database that hold locks of class `$1`; the number of a lock is
/// `objid`. A login that may not see the sessions of others sees their processes alone.
macro_rules! of_holders {
    ($columns:literal, $rest:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE locktype = 'advisory' AND granted AND objsubid = 2 \
             AND classid::bigint = hashtext($1)::bigint & 4294967295 \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) ",
            $rest
        )
    };
}
pub(crate) use of_holders;
