package org.palmtop.core.engine;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Manifest;

/**
 * Adapters and projector of one request, by the rule of {@code runtime/chat/routing.py}: it runs under one route, that
 * of its mode or the one that it names. If an adapter that it names has "replace", the route's others are off; if all
 * have "add", they stay on.
 */
public final class Choice {
    public final String mode;
    /** Name to weight. */
    public final Map<String, Double> adapters;
    /** "speech" or "vision". */
    public final String audioProjector;

    private Choice(String mode, Map<String, Double> adapters, String audioProjector) {
        this.mode = mode;
        this.adapters = adapters;
        this.audioProjector = audioProjector;
    }

    /** The manifest's name for a mixture of inputs. */
    public static String modeOf(boolean hasImage, boolean hasAudio) {
        return hasImage ? hasAudio ? "image+audio" : "image" : hasAudio ? "audio" : "text";
    }

    /**
     * Return adapters and projector for a request of a mode.
     *
     * @param adapters name to weight; null leaves it to the route, an empty map switches every adapter off.
     * @param routeName a route of the manifest; null takes that of the mode.
     */
    public static Choice of(Manifest manifest, String mode, Map<String, Double> adapters, String routeName) {
        Manifest.Route route = route(manifest, mode, routeName);
        if (adapters == null) {
            return new Choice(mode, route.adapters, route.audioProjector);
        }
        boolean replaces = adapters.isEmpty();
        for (Map.Entry<String, Double> entry : adapters.entrySet()) {
            check(manifest, entry.getKey(), entry.getValue());
            replaces |= manifest.adapter(entry.getKey()).combine.equals("replace");
        }
        Map<String, Double> on = new LinkedHashMap<String, Double>();
        if (!replaces) {
            on.putAll(route.adapters);
        }
        on.putAll(adapters);
        return new Choice(mode, Collections.unmodifiableMap(on), route.audioProjector);
    }

    private static Manifest.Route route(Manifest manifest, String mode, String name) {
        Manifest.Route route = manifest.routes.get(name == null ? mode : name);
        if (name != null && route == null) {
            String there = join(new ArrayList<String>(manifest.routes.keySet()));
            throw PalmtopException.input("route '" + name + "' is not in this bundle, expected one of "
                    + (there.isEmpty() ? "none" : there));
        }
        if (route == null || !manifest.hasEncoders(mode)) {
            String served = join(manifest.modes());
            throw PalmtopException.input(
                    "input is " + mode + ", this bundle serves " + (served.isEmpty() ? "nothing" : served));
        }
        return route;
    }

    /** The decoder's {@code adapter_gates}: zeros for what is off. */
    float[] gates(Manifest manifest) {
        float[] gates = new float[manifest.adapters.size()];
        for (Manifest.Adapter adapter : manifest.adapters) {
            Double weight = adapters.get(adapter.name);
            gates[adapter.gate] = weight == null ? 0 : weight.floatValue();
        }
        return gates;
    }

    private static void check(Manifest manifest, String name, double weight) {
        boolean isGated = manifest.adapterMode.equals("gated");
        if (manifest.adapter(name) == null || !isGated) {
            List<String> names = new ArrayList<String>();
            for (Manifest.Adapter adapter : manifest.adapters) {
                names.add(adapter.name);
            }
            String there = names.isEmpty() ? "none" : join(names);
            throw PalmtopException.input("adapter '" + name + "' cannot be switched on, this bundle's adapters are: "
                    + (isGated ? there : "none: its mode is " + manifest.adapterMode));
        }
        if (Double.isNaN(weight) || Math.abs(weight) > Float.MAX_VALUE) {
            throw PalmtopException.input(
                    "adapter '" + name + "' has weight beyond float32's numbers, expected a finite number");
        }
    }

    static String join(List<String> names) {
        StringBuilder text = new StringBuilder();
        for (String name : names) {
            text.append(text.length() > 0 ? ", " : "").append(name);
        }
        return text.toString();
    }
}
