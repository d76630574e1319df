package org.palmtop.core.bundle;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Older manifests in today's words ({@code runtime/bundle/migrations.py}). What is damaged passes through as it is; {@link
 * Manifest} refuses it afterwards.
 */
final class Migrations {
    static final int NEWEST = 3;

    private Migrations() {}

    /** The manifest's fields as the newest schema has them. */
    static Map<String, Object> migrate(Map<String, Object> body, int schema) {
        Map<String, Object> second = schema < 2 ? fromFirst(body) : body;
        return schema < 3 ? fromSecond(second) : second;
    }

    /** Schema 3 knows KV caches of 8 and 4 bits, and targets. */
    private static Map<String, Object> fromSecond(Map<String, Object> body) {
        Map<String, Object> result = new LinkedHashMap<String, Object>(body);
        result.put("targets", new ArrayList<Object>());
        if (body.get("decoder") instanceof Map) {
            Map<String, Object> decoder = new LinkedHashMap<String, Object>(JsonFields.object(body.get("decoder")));
            decoder.put("kv_bits", 32);
            result.put("decoder", decoder);
        }
        return result;
    }

    /** Schema 2 knows adapters that users added; those of schema 1 came with the checkpoint. */
    private static Map<String, Object> fromFirst(Map<String, Object> body) {
        if (!(body.get("adapters") instanceof List)) {
            return body;
        }
        List<Object> adapters = new ArrayList<Object>();
        for (Object adapter : (List<?>) body.get("adapters")) {
            if (adapter instanceof Map) {
                Map<String, Object> changed = new LinkedHashMap<String, Object>(JsonFields.object(adapter));
                changed.put("file", null);
                changed.put("combine", "replace");
                changed.put("merged_from", Collections.<String, Object>emptyMap());
                adapters.add(changed);
            } else {
                adapters.add(adapter);
            }
        }
        Map<String, Object> result = new LinkedHashMap<String, Object>(body);
        result.put("adapters", adapters);
        return result;
    }
}
