-- Says what it does, and nothing where everything is there already. In the database `postgres` first, then in each one.
SELECT format('CREATE ROLE %I LOGIN', :'role')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SELECT format('GRANT pg_read_all_data TO %I', :'role')
 WHERE NOT pg_has_role(:'role', 'pg_read_all_data', 'USAGE') \gexec
-- hashes of passwords: without them roles come back without any
SELECT format('GRANT SELECT ON pg_authid TO %I', :'role')
 WHERE NOT has_table_privilege(:'role', 'pg_catalog.pg_authid', 'SELECT') \gexec
