-- Data worth losing: every kind of thing that a copy can get wrong. `psql -v rows=1000000 -f data.sql` makes the large table about 200 MB.
\set ON_ERROR_STOP on
select count(*) = 3 as contrib from pg_available_extensions where name in ('pgcrypto', 'hstore', 'citext') \gset
\if :contrib
create extension if not exists pgcrypto;
create extension if not exists hstore;
create extension if not exists citext;
\else
-- A server without them: types of the same names.
create domain hstore as text;
create domain citext as text;
create function hstore(text, text) returns text immutable language sql as $$ select $1 || '=>' || $2 $$;
\endif

create schema "Größen und Maße";
create type mood as enum ('sad', 'ok', 'happy');
create domain positive as integer check (value > 0);

create table documents (
  id bigint generated always as identity primary key,
  body jsonb not null,
  raw bytea,
  tags text[] not null default '{}',
  valid tstzrange,
  attributes hstore,
  email citext unique,
  feeling mood,
  amount positive,
  title text,
  title_length integer generated always as (char_length(title)) stored
);
insert into documents (body, raw, tags, valid, attributes, email, feeling, amount, title)
select jsonb_build_object('n', i, 'text', E'tab\there, quote " and backslash \\, newline\n', 'null', null),
       case when i % 7 = 0 then null else decode(md5(i::text), 'hex') || '\x00ff5c4e0a'::bytea end,
       case when i % 5 = 0 then '{}' else array['a', E'b\nc', 'd,e', '{f}', '"g"', 'NULL', null, i::text] end,
       case when i % 3 = 0 then null else tstzrange('2026-01-01'::timestamptz + i * interval '1 hour', null) end,
       case when i % 4 = 0 then null else hstore('k' || i, nullif('v' || i, 'v8')) end,
       'Person' || i || '@Example.ORG', (enum_range(null::mood))[1 + i % 3], i,
       case i % 6 when 0 then null when 1 then '' when 2 then '\N' when 3 then E'\\N\\.' when 4 then E'\\.\n\\.' else 'čeština – 日本語 – ' || i end
from generate_series(1, 500) i;

-- A line that looks like the end of COPY's data, and one that looks like its NULL.
create table traps (id integer primary key, line text);
insert into traps values (1, E'\\.'), (2, E'\\N'), (3, ''), (4, null), (5, E'a\rb'), (6, E'\t'), (7, E'\b\f\v'), (8, repeat('x', 1000000));

create table "Größen und Maße"."Tabelle mit ""Anführung""" ("Schlüssel" integer primary key, "select" text);
insert into "Größen und Maße"."Tabelle mit ""Anführung""" values (1, 'eins'), (2, 'zwei');

create table empty_table (id integer primary key, note text);
create table no_columns ();
insert into no_columns default values;

create table customers (id serial primary key, name text not null);
create table orders (
  id integer not null, customer integer not null references customers (id) on delete cascade, placed date not null,
  total numeric(12, 2) not null, primary key (id, placed, customer)
) partition by range (placed);
create table orders_2025 partition of orders for values from ('2025-01-01') to ('2026-01-01');
create table orders_2026 partition of orders for values from ('2026-01-01') to ('2027-01-01') partition by list (customer);
create table orders_2026_odd partition of orders_2026 for values in (1, 3, 5);
create table orders_2026_rest partition of orders_2026 default;
insert into customers (name) select 'customer ' || i from generate_series(1, 10) i;
insert into orders select i, 1 + i % 10, date '2025-06-01' + i % 500, i * 1.25 from generate_series(1, 5000) i;
create index on orders (total) include (customer) where total > 100;

create materialized view totals as select customer, sum(total) as total from orders group by customer;
create view happy as select id, title from documents where feeling = 'happy';

create table secrets (id integer primary key, owner_name text not null, value text);
insert into secrets select i, case when i % 10 = 0 then current_user else 'somebody' end, md5(i::text) from generate_series(1, 100) i;
alter table secrets enable row level security;
alter table secrets force row level security;
create policy own on secrets using (owner_name = current_user);

create function audit() returns trigger language plpgsql as $$ begin new.note := coalesce(new.note, 'audited'); return new; end $$;
create trigger audited before insert on empty_table for each row execute function audit();
create sequence counter start 42 increment 7;
select nextval('counter'), nextval('counter');

select lo_from_bytea(0, decode(repeat('00ff10', 100000), 'hex'));
select lo_from_bytea(0, 'a small one'::bytea);

create unlogged table scratch_pad (id integer);
insert into scratch_pad values (1);

create table large (id bigint primary key, payload text not null);
insert into large select i, md5(i::text) || md5((i * 3)::text) || repeat(md5((i * 7)::text), 3) from generate_series(1, :rows) i;
comment on table large is 'about 200 bytes a row';
comment on database :"DBNAME" is 'data worth losing';
alter database :"DBNAME" set work_mem = '8MB';
analyze;
