package org.palmtop.core.engine;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PythonText;

/** What is switched on for a mode: the manifest's route, or the user's own choice ({@code runtime/routing.py}). */
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

    /** The route of a mode; {@code adapters}, unless null, replaces the route's. */
    public static Choice of(Manifest manifest, String mode, Map<String, Double> adapters) {
        Manifest.Route route = manifest.routes.get(mode);
        if (route == null) {
            String served = join(manifest.modes());
            throw PalmtopException.input(
                    "input is " + mode + ", this bundle serves " + (served.isEmpty() ? "nothing" : served));
        }
        if (adapters == null) {
            return new Choice(mode, route.adapters, route.audioProjector);
        }
        for (Map.Entry<String, Double> entry : adapters.entrySet()) {
            check(manifest, entry.getKey(), entry.getValue());
        }
        Map<String, Double> copy = new LinkedHashMap<String, Double>(adapters);
        return new Choice(mode, Collections.unmodifiableMap(copy), route.audioProjector);
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
            throw PalmtopException.input("adapter '" + name + "' has weight " + PythonText.repr(weight)
                    + ", expected a finite number");
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
