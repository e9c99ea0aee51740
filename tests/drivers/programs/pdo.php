<?php
// PHP's PDO. One process for each worker, as PHP serves requests; the shape is that of shape.py.
const ROWS = 5000;
const NOTIFICATIONS = 5;
const ALTER_COUNT = 20;

[$workers, $count] = [(int) $argv[1], (int) $argv[2]];
$only = $argv[3] ?? '';

function connect(): PDO
{
    $words = ['sslmode' => 'verify-full', 'host' => getenv('PGHOST'), 'port' => getenv('PGPORT'), 'dbname' => getenv('PGDATABASE'),
        'sslrootcert' => getenv('PGSSLROOTCERT'), 'sslcert' => getenv('PGSSLCERT'), 'sslkey' => getenv('PGSSLKEY')];
    $dsn = 'pgsql:' . implode(';', array_map(fn ($key) => "$key=$words[$key]", array_keys($words)));
    return new PDO($dsn, getenv('PGUSER'), getenv('PGPASSWORD'), [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function add(array &$tally, callable $act): bool
{
    try {
        $tally[$act() ? 'right' : 'wrong']++;
        return true;
    } catch (Throwable $error) {
        $tally['errors']++;
        $tally['error'] = $tally['error'] ?: substr(preg_replace('/\s+/', ' ', $error->getMessage()), 0, 300);
        return false;
    }
}

function tell(string $check, array $tallies): void
{
    $sum = ['check' => $check, 'right' => 0, 'wrong' => 0, 'errors' => 0, 'error' => ''];
    foreach ($tallies as $tally) {
        foreach (['right', 'wrong', 'errors'] as $key) {
            $sum[$key] += $tally[$key];
        }
        $sum['error'] = $sum['error'] ?: $tally['error'];
    }
    echo json_encode($sum, JSON_UNESCAPED_SLASHES), "\n";
}

function fresh(): array
{
    return ['right' => 0, 'wrong' => 0, 'errors' => 0, 'error' => ''];
}

/** Run act(worker, tally) in a process for each worker. */
function side_by_side(int $workers, callable $act): array
{
    $pipes = [];
    for ($worker = 0; $worker < $workers; $worker++) {
        [$mine, $its] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        if (pcntl_fork() === 0) {
            fclose($mine);
            $tally = fresh();
            $act($worker, $tally);
            fwrite($its, json_encode($tally));
            fclose($its);
            exit(0);
        }
        fclose($its);
        $pipes[] = $mine;
    }
    $tallies = array_map(fn ($pipe) => json_decode(stream_get_contents($pipe), true), $pipes);
    while (pcntl_wait($status) > 0) {
        // Until none is left.
    }
    return $tallies;
}

function statements(string $check, callable $act): void
{
    global $workers, $count;
    tell($check, side_by_side($workers, function (int $worker, array &$tally) use ($act, $count) {
        $pdo = connect();
        for ($number = 0; $number < $count; $number++) {
            if (!add($tally, fn () => $act($pdo, $worker, $number))) {
                $pdo = connect();
            }
        }
    }));
}

echo 'PDO of PHP ' . PHP_VERSION . ', libpq ' . connect()->getAttribute(PDO::ATTR_CLIENT_VERSION), "\n";
statements('read', function (PDO $pdo, int $worker, int $number) {
    $statement = $pdo->prepare("SELECT worker, id FROM drivers_$worker WHERE id = ?");
    $statement->execute([$number % 100]);
    $row = $statement->fetch(PDO::FETCH_NUM);
    return $row == [$worker, $number % 100];
});
statements('write', function (PDO $pdo, int $worker) {
    return $pdo->prepare("INSERT INTO drivers_written_$worker (worker) VALUES (?)")->execute([$worker]);
});
statements('freed', function (PDO $pdo, int $worker) {
    $pdo->beginTransaction();
    $found = $pdo->query("SELECT worker FROM drivers_$worker WHERE id = 1")->fetchColumn();
    $pdo->query('SELECT 1')->fetchColumn();
    $pdo->commit();
    return $found == $worker;
});
$tally = fresh();
add($tally, function () {
    $pdo = connect();
    $pdo->beginTransaction();
    $pdo->exec('DECLARE many CURSOR FOR SELECT id FROM drivers_rows');
    $found = 0;
    do {
        $part = count($pdo->query('FETCH 500 FROM many')->fetchAll());
        $found += $part;
    } while ($part > 0);
    $pdo->commit();
    return $found === ROWS;
});
tell('stream', [$tally]);
$tally = fresh();
add($tally, function () {
    $pdo = connect();
    $pdo->pgsqlCopyFromArray('drivers_copied', array_map('strval', range(1, ROWS)));
    return count($pdo->pgsqlCopyToArray('drivers_copied')) === ROWS;
});
tell('copy', [$tally]);
$tally = fresh();
add($tally, function () {
    $pdo = connect();
    $pdo->exec('LISTEN drivers');
    $other = connect();
    for ($number = 0; $number < NOTIFICATIONS; $number++) {
        $other->exec("SELECT pg_notify('drivers', 'x')");
    }
    $found = 0;
    while ($found < NOTIFICATIONS && $pdo->pgsqlGetNotify(PDO::FETCH_ASSOC, 1000)) {
        $found++;
    }
    return $found === NOTIFICATIONS;
});
tell('listen', [$tally]);
