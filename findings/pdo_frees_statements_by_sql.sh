#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# PHP's PDO with a libpq before 17 aborts transactions behind a pool that follows prepared statements.
#
# PHP 8.2 with libpq 15 (Debian 12), PgBouncer 1.24.1 with max_prepared_statements. PDO frees a statement by the text DEALLOCATE pdo_stmt_...,
# but the pool has given it another name on the server: `prepared statement "pdo_stmt_00000001" does not exist`. Outside of a transaction PDO
# swallows that; inside, the next statement gets SQLSTATE 25P02. Every $pdo->query() in a transaction frees one.
# PDO::ATTR_EMULATE_PREPARES => true works. With libpq 17 PHP frees by the protocol, and it works by default.
#
# Exits with 0 when it sees that, else with 1.
. "$(dirname "$0")/lib/pool.sh"
. "$here/tools/lib.sh"
install_packages php=php8.2-cli /usr/lib/php/20220829/pdo_pgsql.so=php8.2-pgsql
start_postgresql
start_pgbouncer
cat > "$work/try.php" << 'PHP'
<?php
foreach ([false, true] as $emulate) {
    $pdo = new PDO("pgsql:host=127.0.0.1;port=$argv[1];dbname=postgres;user=postgres", null, null,
        [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_EMULATE_PREPARES => $emulate]);
    $pdo->beginTransaction();
    try {
        $pdo->query('SELECT 1')->fetchColumn();
        $pdo->query('SELECT 2')->fetchColumn();
        echo 'emulated ', var_export($emulate, true), ": works\n";
    } catch (PDOException $error) {
        echo 'emulated ', var_export($emulate, true), ': ', $error->getCode(), "\n";
    }
}
PHP
php --version | head -1
php "$work/try.php" $pool | tee "$work/told"
[[ $(< "$work/told") == $'emulated false: 25P02\nemulated true: works' ]]
