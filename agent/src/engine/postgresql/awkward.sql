-- Everything that a dump can get wrong. Tests load it, back it up, lose it and compare what comes back.
CREATE SCHEMA "Ünicode schema";
CREATE EXTENSION pg_trgm;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'hap''py');
CREATE DOMAIN positive AS integer CHECK (value > 0);
CREATE TABLE empty (id integer PRIMARY KEY, note text);
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE texts (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text);
INSERT INTO texts (body) VALUES (NULL), (''), ('\N'), ('\.'), (E'line\nline\r\ttab\\ back'), (E'\\.\n\n\n'), ('äöü €'), ('x' || repeat('long ', 5000));
CREATE TABLE types (
    id bigserial PRIMARY KEY, doc jsonb, raw bytea, list integer[], span int4range, at timestamptz, f double precision,
    m mood, p positive, doubled bigint GENERATED ALWAYS AS (id * 2) STORED
);
INSERT INTO types (doc, raw, list, span, at, f, m, p)
    SELECT jsonb_build_object('n', n, 'quote', '"'), decode(md5(n::text), 'hex'), ARRAY[n, NULL, -n], int4range(n, n + 10),
           '2026-11-20T22:10:00Z'::timestamptz + n * interval '1 hour', 1.0 / n, 'hap''py', n
    FROM generate_series(1, 2000) n;
CREATE TABLE "Ünicode schema"."quoted ""name"" äöü" ("säule" text, "select" integer);
INSERT INTO "Ünicode schema"."quoted ""name"" äöü" SELECT 'wert ' || n, n FROM generate_series(1, 17) n;
CREATE TABLE parts (id integer NOT NULL, region text NOT NULL, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu');
CREATE TABLE parts_us PARTITION OF parts FOR VALUES IN ('us');
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT n, (ARRAY['eu', 'us', 'asia'])[1 + n % 3] FROM generate_series(1, 300) n;
CREATE TABLE parent (id integer PRIMARY KEY, boss integer REFERENCES parent);
CREATE TABLE child (id integer PRIMARY KEY, parent integer NOT NULL REFERENCES parent);
INSERT INTO parent VALUES (1, NULL), (2, 1), (3, 2);
INSERT INTO child SELECT n, 1 + n % 3 FROM generate_series(1, 30) n;
CREATE TABLE secrets (id integer PRIMARY KEY, owner text);
INSERT INTO secrets SELECT n, 'somebody' FROM generate_series(1, 100) n;
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
ALTER TABLE secrets FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON secrets USING (id <= 10);
CREATE MATERIALIZED VIEW sums AS SELECT region, count(*) AS n FROM parts GROUP BY region;
CREATE VIEW happy AS SELECT id, doc FROM types WHERE m = 'hap''py';
CREATE INDEX trigrams ON texts USING gin (body gin_trgm_ops) WHERE length(body) < 100;
CREATE SEQUENCE counter START 42 INCREMENT 7;
SELECT nextval('counter'), nextval('counter');
CREATE FUNCTION add(a integer, b integer) RETURNS integer LANGUAGE sql IMMUTABLE AS $body$ SELECT a + b; $body$;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'stamped; "it"'; RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT ON empty FOR EACH ROW EXECUTE FUNCTION stamp();
COMMENT ON TABLE types IS 'it''s a "comment"; with $$ in it';
SELECT lo_from_bytea(4000000001, decode(repeat('00ff5c0a', 3000), 'hex'));
SELECT lo_from_bytea(70000, ''::bytea);
SELECT lo_from_bytea(70001, 'small');
