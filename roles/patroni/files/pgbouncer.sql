-- SPDX-License-Identifier: Apache-2.0
-- The function by which PgBouncer looks up the password of a user who connects. It runs as its owner, so its names are qualified and
-- its search path is fixed. No row: superusers, replication users, users who may not log in, whose password has expired, or
-- who have none.
DO $do$
DECLARE
  body CONSTANT text := $body$
    SELECT rolname::text, rolpassword
    FROM pg_catalog.pg_authid
    WHERE rolname = $1
      AND rolcanlogin AND NOT rolsuper AND NOT rolreplication
      AND rolpassword IS NOT NULL
      AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())
  $body$;
BEGIN
  IF EXISTS (
    SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'pgbouncer' AND p.oid = pg_catalog.to_regprocedure('pgbouncer.get_auth(text)')
      AND p.proowner::pg_catalog.regrole::text = 'postgres' AND p.prosecdef AND p.prosrc = body
      AND p.proconfig = ARRAY['search_path=pg_catalog, pg_temp']
      AND p.proacl::text = '{postgres=X/postgres,pgbouncer=X/postgres}'
      AND n.nspacl::text = '{postgres=UC/postgres,pgbouncer=U/postgres}'
  ) THEN
    RETURN;
  END IF;
  DROP SCHEMA IF EXISTS pgbouncer CASCADE;
  CREATE SCHEMA pgbouncer AUTHORIZATION postgres;
  EXECUTE pg_catalog.format(
    'CREATE FUNCTION pgbouncer.get_auth(p_user text) RETURNS TABLE (username text, password text)'
    ' LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L', body);
  REVOKE ALL ON FUNCTION pgbouncer.get_auth(text) FROM PUBLIC;
  GRANT USAGE ON SCHEMA pgbouncer TO pgbouncer;
  GRANT EXECUTE ON FUNCTION pgbouncer.get_auth(text) TO pgbouncer;
END
$do$
