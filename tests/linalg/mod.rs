mod keyspace;
