# SPDX-License-Identifier: Apache-2.0
# Ruby's pg, and ActiveRecord on it (second word "rails"): the shape is that of shape.py. One process for each worker.
require "json"
require "pg"

KIND = ARGV.shift
WORKERS, COUNT = ARGV.map(&:to_i)
ROWS = 5000
NOTIFICATIONS = 5
ADDRESS = { host: ENV["PGHOST"], port: ENV["PGPORT"], user: ENV["PGUSER"], password: ENV["PGPASSWORD"], sslmode: "verify-full",
            sslrootcert: ENV["PGSSLROOTCERT"], sslcert: ENV["PGSSLCERT"], sslkey: ENV["PGSSLKEY"] }.freeze

# A connection of pg with statements that are prepared by name, as its documentation shows.
class Pg
  def self.version = "Ruby pg #{PG::VERSION}, libpq #{PG.library_version / 10_000}"

  def initialize
    @link = PG.connect(**ADDRESS, dbname: ENV["PGDATABASE"])
    @names = {}
  end

  attr_reader :link

  def close = @link.close

  def row(text, argument)
    unless @names[text]
      @link.prepare(name = "statement_#{@names.size}", text)
      @names[text] = name
    end
    @link.exec_prepared(@names[text], [argument]).values.first.map(&:to_i)
  end

  def transaction(worker)
    @link.transaction do
      row("SELECT worker FROM drivers_#{worker} WHERE id = $1", 1) == [worker] && @link.exec_params("SELECT $1::int", [1])
    end
  end
end

# ActiveRecord with few prepared statements, so that it frees some.
class Rails
  def self.version = "ActiveRecord #{ActiveRecord.version}"

  def initialize
    ActiveRecord::Base.establish_connection(ADDRESS.except(:user).merge(
      adapter: "postgresql", username: ENV["PGUSER"], database: ENV["PGDATABASE"], statement_limit: 3,
      prepared_statements: ENV["DRIVERS_RAILS_PREPARED"] != "off"
    ))
    @link = ActiveRecord::Base.connection
  end

  def link = @link.raw_connection

  def close = ActiveRecord::Base.remove_connection

  def row(text, argument)
    @link.exec_query(text, "drivers", [ActiveRecord::Relation::QueryAttribute.new("id", argument, ActiveRecord::Type::Integer.new)], prepare: true)
         .rows.first.map(&:to_i)
  end

  def transaction(worker)
    ActiveRecord::Base.transaction do
      (0..5).each { |number| row("SELECT #{number} + $1::int", 1) }
      row("SELECT worker FROM drivers_#{worker} WHERE id = $1", 1) == [worker]
    end
  end
end

require "active_record" if KIND == "rails"
CLIENT = KIND == "rails" ? Rails : Pg

def fresh = { "right" => 0, "wrong" => 0, "errors" => 0, "error" => "" }

def add(tally)
  tally[yield ? "right" : "wrong"] += 1
  true
rescue StandardError => e
  tally["errors"] += 1
  tally["error"] = e.message.split.join(" ")[0, 300] if tally["error"].empty?
  false
end

def tell(check, *tallies)
  sum = { "check" => check, **fresh }
  tallies.each do |tally|
    %w[right wrong errors].each { |key| sum[key] += tally[key] }
    sum["error"] = tally["error"] if sum["error"].empty?
  end
  puts JSON.generate(sum)
  $stdout.flush
end

def statements(check)
  pipes = Array.new(WORKERS) do |worker|
    reader, writer = IO.pipe
    fork do
      reader.close
      tally = fresh
      client = CLIENT.new
      COUNT.times do |number|
        add(tally) { yield client, worker, number } || client = CLIENT.new
      end
      writer.write(JSON.generate(tally))
      writer.close
      exit!(0)
    end
    writer.close
    reader
  end
  tallies = pipes.map { |pipe| JSON.parse(pipe.read) }
  Process.waitall
  tell(check, *tallies)
end

def once(check)
  tally = fresh
  add(tally) { yield CLIENT.new }
  tell(check, tally)
end

puts CLIENT.version
statements("read") do |client, worker, number|
  client.row("SELECT worker, id FROM drivers_#{worker} WHERE id = $1", number % 100) == [worker, number % 100]
end
statements("write") do |client, worker, _number|
  client.row("INSERT INTO drivers_written_#{worker} (worker) VALUES ($1) RETURNING worker", worker)
end
statements("freed") { |client, worker, _number| client.transaction(worker) }
once("copy") do |client|
  client.link.copy_data("COPY drivers_copied FROM STDIN") { ROWS.times { |number| client.link.put_copy_data("#{number}\n") } }
  found = 0
  client.link.copy_data("COPY drivers_copied TO STDOUT") { found += 1 while client.link.get_copy_data }
  found == ROWS
end
once("listen") do |client|
  client.link.exec("LISTEN drivers")
  other = PG.connect(**ADDRESS, dbname: ENV["PGDATABASE"])
  NOTIFICATIONS.times { other.exec("SELECT pg_notify('drivers', 'x')") }
  found = 0
  found += 1 while found < NOTIFICATIONS && client.link.wait_for_notify(2)
  found == NOTIFICATIONS
end
