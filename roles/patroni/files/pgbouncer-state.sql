SELECT n.nspacl::text AS schema_rights, p.proowner::regrole::text AS owner, p.prosecdef AS security_definer,
       p.proconfig::text AS settings, p.proacl::text AS rights, md5(p.prosrc) AS source,
       pg_catalog.pg_has_role('rewinder', 'pg_monitor', 'MEMBER') AS rewinder_monitors
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'pgbouncer' AND p.proname = 'get_auth'
