-- SPDX-License-Identifier: Apache-2.0
-- All data, passwords as the server keeps them, and large objects, which pg_read_all_data leaves out.
GRANT pg_read_all_data TO dumper;
GRANT SELECT ON pg_catalog.pg_authid TO dumper;
ALTER ROLE dumper SET lo_compat_privileges = on;
