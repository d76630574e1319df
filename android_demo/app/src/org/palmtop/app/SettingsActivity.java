package org.palmtop.app;

import android.app.Activity;
import android.os.Bundle;
import android.view.View;
import android.widget.CheckBox;
import android.widget.CompoundButton;
import android.widget.EditText;
import android.widget.SeekBar;
import android.widget.TextView;
import android.widget.Toast;
import java.io.IOException;
import java.util.Locale;
import org.palmtop.app.logic.Settings;

/** Screen of the answer settings: instruction, length and sampling. Saved when the screen is left. */
public final class SettingsActivity extends Activity implements SeekBar.OnSeekBarChangeListener {
    private static final double TEMPERATURE_STEP = 0.05;
    private static final double TOP_P_STEP = 0.05;
    private static final double PENALTY_STEP = 0.05;
    private static final double LOWEST_PENALTY = 0.5;

    private PalmtopApp app;
    private EditText system;
    private CheckBox asModel;
    private View own;
    private EditText length;
    private EditText topK;
    private SeekBar temperature;
    private SeekBar topP;
    private SeekBar penalty;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.settings);
        app = (PalmtopApp) getApplication();
        system = (EditText) findViewById(R.id.system);
        asModel = (CheckBox) findViewById(R.id.as_model);
        own = findViewById(R.id.own);
        asModel.setOnCheckedChangeListener(new CompoundButton.OnCheckedChangeListener() {
            @Override
            public void onCheckedChanged(CompoundButton box, boolean isChecked) {
                showOwn();
            }
        });
        length = (EditText) findViewById(R.id.length);
        topK = (EditText) findViewById(R.id.top_k);
        temperature = bar(R.id.temperature);
        topP = bar(R.id.top_p);
        penalty = bar(R.id.penalty);
        if (saved == null) { // else the fields bring back themselves
            show(app.chat().settings());
        }
        findViewById(R.id.back).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                finish();
            }
        });
        findViewById(R.id.reset).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                show(new Settings());
            }
        });
    }

    @Override
    protected void onResume() {
        super.onResume();
        showOwn();
        showLabels();
    }

    @Override
    protected void onPause() {
        keep(this, app, chosen());
        super.onPause();
    }

    /** Use settings from now on, and after a restart. */
    static void keep(Activity screen, PalmtopApp app, Settings settings) {
        app.chat().setSettings(settings);
        try {
            settings.save(app.settingsFile());
        } catch (IOException error) {
            Toast.makeText(screen, R.string.trouble_storage_full, Toast.LENGTH_LONG).show();
        }
    }

    private SeekBar bar(int id) {
        SeekBar bar = (SeekBar) findViewById(id);
        bar.setOnSeekBarChangeListener(this);
        return bar;
    }

    private void show(Settings settings) {
        system.setText(settings.systemPrompt);
        asModel.setChecked(settings.isAsModel);
        length.setText(String.valueOf(settings.maxTokens));
        topK.setText(String.valueOf(settings.topK));
        temperature.setProgress((int) Math.round(settings.temperature / TEMPERATURE_STEP));
        topP.setProgress((int) Math.round(settings.topP / TOP_P_STEP) - 1);
        penalty.setProgress((int) Math.round((settings.repetitionPenalty - LOWEST_PENALTY) / PENALTY_STEP));
        showLabels();
    }

    /** A value of the model is not shown as the user's. */
    private void showOwn() {
        own.setVisibility(asModel.isChecked() ? View.GONE : View.VISIBLE);
    }

    private Settings chosen() {
        Settings before = app.chat().settings();
        return new Settings(
                system.getText().toString(),
                asModel.isChecked(),
                temperature.getProgress() * TEMPERATURE_STEP,
                number(topK, before.topK),
                (topP.getProgress() + 1) * TOP_P_STEP,
                LOWEST_PENALTY + penalty.getProgress() * PENALTY_STEP,
                number(length, before.maxTokens),
                before.adapter);
    }

    /** An empty field keeps what was. */
    private static int number(EditText field, int before) {
        String text = field.getText().toString().trim();
        return text.isEmpty() ? before : Integer.parseInt(text); // the field takes at most four digits
    }

    private void showLabels() {
        Settings now = chosen();
        label(R.id.temperature_label, temperature, R.string.settings_temperature, now.temperature);
        label(R.id.top_p_label, topP, R.string.settings_top_p, now.topP);
        label(R.id.penalty_label, penalty, R.string.settings_penalty, now.repetitionPenalty);
    }

    private void label(int id, SeekBar bar, int words, double value) {
        String text = getString(words, String.format(Locale.getDefault(), "%.2f", value));
        ((TextView) findViewById(id)).setText(text);
        bar.setContentDescription(text);
    }

    @Override
    public void onProgressChanged(SeekBar bar, int progress, boolean isByUser) {
        showLabels();
    }

    @Override
    public void onStartTrackingTouch(SeekBar bar) {}

    @Override
    public void onStopTrackingTouch(SeekBar bar) {}
}
