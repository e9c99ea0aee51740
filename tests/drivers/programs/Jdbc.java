// SPDX-License-Identifier: Apache-2.0
// pgjdbc as it comes; the shape is that of shape.py. Run by java -cp postgresql.jar Jdbc.java WORKERS COUNT.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.function.IntConsumer;
import org.postgresql.PGConnection;

public class Jdbc {
  static final int ROWS = 5000, NOTIFICATIONS = 5, ALTER_COUNT = 20;
  static int workers, count;

  interface Act { boolean run() throws Exception; }
  interface Work { boolean run(Connection connection, int worker, int number) throws Exception; }

  static class Tally {
    final String check; int right, wrong, errors; String error = "";
    Tally(String check) { this.check = check; }
    boolean add(Act act) {
      boolean found;
      try { found = act.run(); } catch (Exception problem) {
        synchronized (this) { errors++; if (error.isEmpty()) error = String.valueOf(problem.getMessage()); }
        return false;
      }
      synchronized (this) { if (found) right++; else wrong++; }
      return true;
    }
    void tell() {
      String text = error.replaceAll("\\s+", " ").replace("\\", "\\\\").replace("\"", "\\\"");
      System.out.printf("{\"check\": \"%s\", \"right\": %d, \"wrong\": %d, \"errors\": %d, \"error\": \"%s\"}%n",
          check, right, wrong, errors, text);
    }
  }

  static Connection connect() throws SQLException {
    Properties words = new Properties();
    words.put("user", System.getenv("PGUSER"));
    words.put("password", System.getenv("PGPASSWORD"));
    words.put("sslmode", "verify-full");
    words.put("sslrootcert", System.getenv("PGSSLROOTCERT"));
    words.put("sslcert", System.getenv("PGSSLCERT"));
    words.put("sslkey", System.getenv("DRIVERS_SSLKEY_DER"));
    return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
        + System.getenv("PGDATABASE"), words);
  }

  static void sideBySide(IntConsumer act) throws InterruptedException {
    List<Thread> threads = new ArrayList<>();
    for (int worker = 0; worker < workers; worker++) {
      int mine = worker;
      Thread thread = new Thread(() -> act.accept(mine));
      thread.start();
      threads.add(thread);
    }
    for (Thread thread : threads) thread.join();
  }

  static void statements(String check, Work work) throws InterruptedException {
    Tally tally = new Tally(check);
    sideBySide(worker -> {
      try {
        Connection connection = connect();
        for (int number = 0; number < count; number++) {
          Connection now = connection;
          int which = number;
          if (!tally.add(() -> work.run(now, worker, which))) {
            connection.close();
            connection = connect();
          }
        }
        connection.close();
      } catch (SQLException problem) { throw new IllegalStateException(problem); }
    });
    tally.tell();
  }

  static boolean reads(Connection connection, String text, int... wished) throws SQLException {
    try (var statement = connection.prepareStatement(text)) {
      statement.setInt(1, wished[wished.length - 1]);
      try (ResultSet rows = statement.executeQuery()) {
        if (!rows.next()) return false;
        for (int place = 0; place < wished.length; place++) if (rows.getInt(place + 1) != wished[place]) return false;
        return true;
      }
    }
  }

  static List<Connection> connections() throws SQLException {
    List<Connection> found = new ArrayList<>();
    for (int worker = 0; worker < workers; worker++) found.add(connect());
    return found;
  }

  static void readAltered(Tally tally, List<Connection> connections) throws Exception {
    sideBySide(worker -> {
      for (int time = 0; time < ALTER_COUNT; time++)
        tally.add(() -> reads(connections.get(worker), "SELECT * FROM drivers_altered WHERE id = ?", 1));
    });
    tally.tell();
  }

  public static void main(String[] words) throws Exception {
    workers = Integer.parseInt(words[0]);
    count = Integer.parseInt(words[1]);
    try (Connection connection = connect()) {
      System.out.println("pgjdbc " + connection.getMetaData().getDriverVersion());
    }
    statements("read", (connection, worker, number) ->
        reads(connection, "SELECT worker, id FROM drivers_" + worker + " WHERE id = ?", worker, number % 100));
    statements("write", (connection, worker, number) -> {
      try (var statement = connection.prepareStatement("INSERT INTO drivers_written_" + worker + " (worker) VALUES (?)")) {
        statement.setInt(1, worker);
        return statement.executeUpdate() == 1;
      }
    });
    List<Connection> standing = connections();
    readAltered(new Tally("before"), standing);
    new BufferedReader(new InputStreamReader(System.in)).readLine();
    readAltered(new Tally("altered"), standing);
    for (Connection connection : standing) connection.close();
    standing = connections();
    readAltered(new Tally("altered_new"), standing);
    for (Connection connection : standing) connection.close();
    statements("freed", (connection, worker, number) -> {
      connection.setAutoCommit(false);
      boolean right = reads(connection, "SELECT worker FROM drivers_" + worker + " WHERE worker = ?", worker);
      try (Statement statement = connection.createStatement()) { statement.execute("SELECT 1"); }
      connection.commit();
      connection.setAutoCommit(true);
      return right;
    });
    Tally stream = new Tally("stream");
    stream.add(() -> {
      try (Connection connection = connect(); Statement statement = connection.createStatement()) {
        connection.setAutoCommit(false);
        statement.setFetchSize(500);
        int found = 0;
        try (ResultSet rows = statement.executeQuery("SELECT id FROM drivers_rows")) { while (rows.next()) found++; }
        connection.commit();
        return found == ROWS;
      }
    });
    stream.tell();
    Tally copy = new Tally("copy");
    copy.add(() -> {
      try (Connection connection = connect()) {
        StringBuilder rows = new StringBuilder();
        for (int number = 0; number < ROWS; number++) rows.append(number).append('\n');
        var manager = connection.unwrap(PGConnection.class).getCopyAPI();
        manager.copyIn("COPY drivers_copied FROM STDIN", new StringReader(rows.toString()));
        StringWriter out = new StringWriter();
        manager.copyOut("COPY drivers_copied TO STDOUT", out);
        return out.toString().lines().count() == ROWS;
      }
    });
    copy.tell();
    Tally listen = new Tally("listen");
    listen.add(() -> {
      try (Connection connection = connect(); Connection other = connect()) {
        try (Statement statement = connection.createStatement()) { statement.execute("LISTEN drivers"); }
        try (Statement statement = other.createStatement()) {
          for (int number = 0; number < NOTIFICATIONS; number++) statement.execute("SELECT pg_notify('drivers', 'x')");
        }
        int found = 0;
        for (int time = 0; time < 10 && found < NOTIFICATIONS; time++)
          found += connection.unwrap(PGConnection.class).getNotifications(300).length;
        return found == NOTIFICATIONS;
      }
    });
    listen.tell();
    Tally cancel = new Tally("cancel");
    cancel.add(() -> {
      long begun = System.nanoTime();
      try (Connection connection = connect(); Statement statement = connection.createStatement()) {
        statement.setQueryTimeout(1);
        statement.execute("SELECT pg_sleep(30)");
      } catch (SQLException problem) {
        return "57014".equals(problem.getSQLState()) && System.nanoTime() - begun < 15_000_000_000L;
      }
      return false;
    });
    cancel.tell();
  }
}
