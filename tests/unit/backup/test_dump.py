# SPDX-License-Identifier: Apache-2.0
"""What a dump holds, and the SQL that makes its database and its roles anew."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import dump

TOC = """;
; Archive created at 2026-11-26 04:12:43 UTC
;     dbname: orders
;
; Selected TOC Entries:
;
6; 2615 16400 SCHEMA - sales orderuser
218; 1259 16401 TABLE public items orderuser
219; 1259 16402 TABLE sales order lines clerk
3400; 0 16401 TABLE DATA public items orderuser
3250; 2606 16410 CONSTRAINT public items items_pkey orderuser
3251; 1259 16411 INDEX public items_name orderuser
2; 3079 16500 EXTENSION - pgcrypto -
"""
ROLES = '''--
-- Roles
--
CREATE ROLE clerk;
ALTER ROLE clerk WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:x$y:z';
CREATE ROLE "odd ""one""";
ALTER ROLE "odd ""one""" WITH NOLOGIN;
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER PASSWORD 'secret';
CREATE ROLE dumper;
ALTER ROLE dumper SET lo_compat_privileges TO 'on';
CREATE ROLE orderuser;
ALTER ROLE orderuser WITH LOGIN;
GRANT clerk TO orderuser WITH INHERIT TRUE GRANTED BY postgres;
GRANT pg_read_all_data TO dumper GRANTED BY postgres;
GRANT SET ON PARAMETER work_mem TO clerk;
CREATE TABLESPACE fast OWNER postgres LOCATION '/srv/fast';
'''


def test_a_list_of_contents_tells_tables_and_owners():
    toc = dump.parse_toc(TOC)
    assert toc.tables == ("public.items", "sales.order lines")
    assert toc.owners == {"orderuser", "clerk"}
    assert dump.data_tables(TOC) == ["public.items"]


def test_roles_are_made_where_they_lack_and_the_clusters_own_are_left_alone():
    statements, made = dump.role_statements(ROLES, {"postgres", "dumper", "orderuser"})
    assert made == ["clerk", 'odd "one"']
    assert "CREATE ROLE clerk;" in statements and "CREATE ROLE orderuser;" not in statements
    assert "ALTER ROLE orderuser WITH LOGIN;" in statements
    assert "GRANT clerk TO orderuser WITH INHERIT TRUE;" in statements
    assert not [line for line in statements if "postgres" in line or "dumper" in line or "TABLESPACE" in line]


def test_a_database_is_made_like_the_one_that_was_dumped():
    properties = {
        "owner": "clerk",
        "encoding": "UTF8",
        "collate": "C.UTF-8",
        "ctype": "C.UTF-8",
        "provider": "i",
        "locale": "de",
    }
    assert dump.create_statement("a", properties) == (
        "CREATE DATABASE \"a\" TEMPLATE template0 OWNER \"clerk\" ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8' "
        "LOCALE_PROVIDER icu ICU_LOCALE 'de'"
    )


def test_settings_and_rights_of_a_database_come_back():
    properties = {
        "settings": ["work_mem=8MB", 'search_path="$user", sales'],
        "grants": [{"to": "", "right": "CONNECT", "option": False}, {"to": "clerk", "right": "CREATE", "option": True}],
    }
    assert dump.property_statements("a", properties) == [
        'ALTER DATABASE "a" SET "work_mem" TO \'8MB\'',
        'ALTER DATABASE "a" SET "search_path" TO "$user", sales',
        'REVOKE ALL ON DATABASE "a" FROM PUBLIC',
        'GRANT CONNECT ON DATABASE "a" TO PUBLIC',
        'GRANT CREATE ON DATABASE "a" TO "clerk" WITH GRANT OPTION',
    ]
