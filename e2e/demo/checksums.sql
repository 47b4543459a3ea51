-- One line for each thing that holds data: name, rows, checksum. Two databases with the same lines hold the same data.
\set QUIET on
\pset tuples_only on
\pset format unaligned
\pset fieldsep ' '
set row_security = off;
select format(
  'select %L, count(*), md5(coalesce(string_agg(md5(t::text), '''' order by md5(t::text)), '''')) from %s t',
  format('%I.%I', n.nspname, c.relname), format('%I.%I', n.nspname, c.relname))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm') and n.nspname not like 'pg\_%' and n.nspname not in ('information_schema', 'holdfast') and c.relpersistence = 'p'
order by n.nspname, c.relname
\gexec
select 'large objects', count(*), md5(coalesce(string_agg(md5(lo_get(oid)), '' order by md5(lo_get(oid))), '')) from pg_largeobject_metadata;
select format('select %L, 1, md5(last_value::text || is_called::text) from %s', 'sequence ' || format('%I.%I', n.nspname, c.relname), format('%I.%I', n.nspname, c.relname))
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'S' and n.nspname not like 'pg\_%' and n.nspname <> 'holdfast' order by n.nspname, c.relname
\gexec
select 'objects', count(*), md5(string_agg(line, ',' order by line)) from (
  select 'constraint ' || conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid) as line from pg_constraint where connamespace::regnamespace::text not like 'pg\_%' and connamespace::regnamespace::text not in ('information_schema', 'holdfast')
  union all select 'index ' || indexdef from pg_indexes where schemaname not like 'pg\_%' and schemaname <> 'holdfast'
  union all select 'policy ' || tablename || ' ' || policyname || ' ' || coalesce(qual, '') from pg_policies
  union all select 'trigger ' || pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
  union all select 'view ' || viewname || ' ' || definition from pg_views where schemaname not like 'pg\_%' and schemaname not in ('information_schema', 'holdfast')
  union all select 'extension ' || extname || ' ' || extversion from pg_extension
  union all select 'column ' || attrelid::regclass::text || ' ' || attname || ' ' || atttypid::regtype::text || ' ' || attidentity::text || attgenerated::text || attnotnull::text from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relkind in ('r', 'p', 'v', 'm') and attnum > 0 and not attisdropped and c.relnamespace::regnamespace::text not like 'pg\_%' and c.relnamespace::regnamespace::text not in ('information_schema', 'holdfast')
) l;
select 'database', 1, md5(coalesce(shobj_description(d.oid, 'pg_database'), '') || coalesce((select string_agg(array_to_string(setconfig, ','), ';') from pg_db_role_setting where setdatabase = d.oid), ''))
from pg_database d where datname = current_database();
