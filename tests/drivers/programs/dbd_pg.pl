# SPDX-License-Identifier: Apache-2.0
# Perl's DBD::Pg. One process for each worker; the shape is that of shape.py.
use strict;
use warnings;
use DBI;
use DBD::Pg;
use JSON::PP;

$| = 1;
my ($workers, $count) = @ARGV;
use constant { ROWS => 5000, NOTIFICATIONS => 5 };

sub connected {
    my $dsn = join ';', "dbi:Pg:dbname=$ENV{PGDATABASE}", "host=$ENV{PGHOST}", "port=$ENV{PGPORT}", 'sslmode=verify-full',
        "sslrootcert=$ENV{PGSSLROOTCERT}", "sslcert=$ENV{PGSSLCERT}", "sslkey=$ENV{PGSSLKEY}";
    return DBI->connect($dsn, $ENV{PGUSER}, $ENV{PGPASSWORD}, { RaiseError => 1, PrintError => 0, AutoCommit => 1 });
}

sub fresh { return { right => 0, wrong => 0, errors => 0, error => '' } }

sub add {
    my ($tally, $act) = @_;
    my $right = eval { $act->() ? 1 : 0 };
    if (!defined $right) {
        $tally->{errors}++;
        $tally->{error} ||= substr(join(' ', split ' ', $@), 0, 300);
        return 0;
    }
    $tally->{ $right ? 'right' : 'wrong' }++;
    return 1;
}

sub tell_of {
    my ($check, @tallies) = @_;
    my $sum = { check => $check, %{ fresh() } };
    for my $tally (@tallies) {
        $sum->{$_} += $tally->{$_} for qw(right wrong errors);
        $sum->{error} ||= $tally->{error};
    }
    print encode_json($sum), "\n";
}

sub statements {
    my ($check, $act) = @_;
    my @pipes;
    for my $worker (0 .. $workers - 1) {
        pipe my $reader, my $writer or die $!;
        my $child = fork;
        if ($child == 0) {
            close $reader;
            my $tally = fresh();
            my $dbh = connected();
            for my $number (0 .. $count - 1) {
                $dbh = connected() unless add($tally, sub { $act->($dbh, $worker, $number) });
            }
            print {$writer} encode_json($tally);
            close $writer;
            exit 0;
        }
        close $writer;
        push @pipes, $reader;
    }
    my @tallies = map { my $pipe = $_; local $/; decode_json(<$pipe> || '{"right":0,"wrong":0,"errors":1,"error":"a worker ended"}') } @pipes;
    1 while wait > 0;
    tell_of($check, @tallies);
}

{
    my $dbh = connected();
    print "DBD::Pg $DBD::Pg::VERSION, libpq ", int($dbh->{pg_lib_version} / 10000), "\n";
}
statements('read', sub {
    my ($dbh, $worker, $number) = @_;
    my @row = $dbh->selectrow_array("SELECT worker, id FROM drivers_$worker WHERE id = ?", undef, $number % 100);
    return $row[0] == $worker && $row[1] == $number % 100;
});
statements('write', sub {
    my ($dbh, $worker) = @_;
    return $dbh->do("INSERT INTO drivers_written_$worker (worker) VALUES (?)", undef, $worker) == 1;
});
statements('freed', sub {
    my ($dbh, $worker) = @_;
    $dbh->begin_work;
    my ($found) = $dbh->selectrow_array("SELECT worker FROM drivers_$worker WHERE id = ?", undef, 1);
    $dbh->selectrow_array('SELECT ?::int', undef, 1);
    $dbh->commit;
    return $found == $worker;
});
my $tally = fresh();
add($tally, sub {
    my $dbh = connected();
    $dbh->do('COPY drivers_copied FROM STDIN');
    $dbh->pg_putcopydata("$_\n") for 1 .. ROWS;
    $dbh->pg_putcopyend;
    $dbh->do('COPY drivers_copied TO STDOUT');
    my ($line, $found) = ('', 0);
    $found++ while $dbh->pg_getcopydata($line) >= 0;
    return $found == ROWS;
});
tell_of('copy', $tally);
$tally = fresh();
add($tally, sub {
    my ($dbh, $other, $found) = (connected(), connected(), 0);
    $dbh->do('LISTEN drivers');
    $other->do("SELECT pg_notify('drivers', 'x')") for 1 .. NOTIFICATIONS;
    for (1 .. 10) {
        $found++ while $dbh->pg_notifies;
        last if $found == NOTIFICATIONS;
        select undef, undef, undef, 0.2;
    }
    return $found == NOTIFICATIONS;
});
tell_of('listen', $tally);
