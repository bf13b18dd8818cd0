-- Your own orders beside what kinfold knows about the customers. For PostgreSQL:
--
--   psql "$DATABASE_URL" -f plans_report.sql                     (another workspace: -v workspace=NAME)
--
-- The directory has to be in the same database (KINFOLD_DIRECTORY_URL): its views are in the schema `kinfold`. The table `orders`
-- is yours; adapt its name and columns. Here it has
--
--   user_id     text           your id of the customer, which is the contact's external id; null for a guest
--   email       text           the address that the customer gave
--   total       numeric
--   ordered_at  timestamptz

\if :{?workspace}
\else
  \set workspace default
\endif

\echo
\echo 'Revenue of the last 30 days by plan'

SELECT coalesce(c.metadata ->> 'plan', '(none)') AS plan,
       count(DISTINCT c.id)                      AS customers,
       sum(o.total)                              AS revenue,
       round(sum(o.total) / count(DISTINCT c.id), 2) AS revenue_per_customer
FROM orders AS o
JOIN kinfold.contacts AS c ON c.workspace = :'workspace' AND c.external_id = o.user_id
WHERE o.ordered_at >= now() - interval '30 days'
GROUP BY 1
ORDER BY revenue DESC, plan;

\echo
\echo 'Customers who have not been here for 30 days, the most valuable first'

SELECT c.external_id,
       c.name,
       c.last_seen_at::date AS last_seen,
       sum(o.total)         AS revenue,
       max(o.ordered_at)::date AS last_order
FROM kinfold.contacts AS c
JOIN orders AS o ON o.user_id = c.external_id
WHERE c.workspace = :'workspace' AND c.last_seen_at < now() - interval '30 days'
GROUP BY c.id, c.external_id, c.name, c.last_seen_at
ORDER BY revenue DESC, c.external_id
LIMIT 100;

\echo
\echo 'Plans of 10 seats or more without an order in the last 90 days'

-- A metadata value has the type that it has in JSON: `seats` may be a number, or a text such as "unlimited".
SELECT c.external_id, c.name, c.metadata ->> 'plan' AS plan, c.metadata ->> 'seats' AS seats
FROM kinfold.contacts AS c
WHERE c.workspace = :'workspace'
  AND CASE jsonb_typeof(c.metadata -> 'seats')
        WHEN 'number' THEN (c.metadata ->> 'seats')::numeric >= 10
        WHEN 'string' THEN c.metadata ->> 'seats' = 'unlimited'
        ELSE false
      END
  AND NOT EXISTS (
        SELECT FROM orders AS o WHERE o.user_id = c.external_id AND o.ordered_at >= now() - interval '90 days'
      )
ORDER BY c.external_id;

\echo
\echo 'Orders of guests whom kinfold knows, by their present or a former address'

SELECT o.email, o.total, c.external_id, c.name
FROM orders AS o
JOIN (
  SELECT workspace, id AS contact_id, email FROM kinfold.contacts
  UNION
  SELECT workspace, contact_id, value FROM kinfold.contact_identifiers WHERE kind = 'email'
) AS a ON a.workspace = :'workspace' AND lower(a.email) = lower(o.email)
JOIN kinfold.contacts AS c ON c.workspace = a.workspace AND c.id = a.contact_id
WHERE o.user_id IS NULL
ORDER BY o.email, c.external_id;
