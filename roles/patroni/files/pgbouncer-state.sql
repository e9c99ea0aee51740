-- SPDX-License-Identifier: Apache-2.0
SELECT n.nspacl::text AS schema_rights, p.proowner::regrole::text AS owner, p.prosecdef AS security_definer,
       p.proconfig::text AS settings, p.proacl::text AS rights, md5(p.prosrc) AS source,
       pg_catalog.pg_has_role('rewinder', 'pg_monitor', 'MEMBER') AS rewinder_monitors,
       (SELECT count(*) FROM unnest(ARRAY['pg_ls_dir(text, boolean, boolean)', 'pg_stat_file(text, boolean)', 'pg_read_binary_file(text)',
                                          'pg_read_binary_file(text, bigint, bigint, boolean)']) AS needed
          WHERE pg_catalog.has_function_privilege('rewinder', 'pg_catalog.' || needed, 'EXECUTE')) AS rewinder_rewinds,
       (SELECT count(*) FROM pg_catalog.pg_roles r WHERE r.rolname = 'dumper' AND pg_catalog.pg_has_role(r.oid, 'pg_read_all_data', 'MEMBER')
          AND pg_catalog.has_table_privilege(r.oid, 'pg_catalog.pg_authid', 'SELECT')
          AND 'lo_compat_privileges=on' = ANY (r.rolconfig)) AS dumper_reads
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'pgbouncer' AND p.proname = 'get_auth'
