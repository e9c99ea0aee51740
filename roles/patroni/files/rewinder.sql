-- SPDX-License-Identifier: Apache-2.0
-- What pg_rewind needs where its user is no superuser (manual of PostgreSQL 13 to 18, pg_rewind, Notes). Patroni grants it only when it makes a
-- cluster: one that was adopted, restored or promoted has it not.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO rewinder;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO rewinder;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO rewinder;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO rewinder;
